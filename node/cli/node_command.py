"""`cronclave node`: this process becomes a node of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.cli.commands import Command
from node.cli.config_commands import configured
from node.cli.exits import CommandFailed

if TYPE_CHECKING:
    from node.config import Config


@click.command(
    cls=Command,
    examples="""
        cronclave node --config cluster.toml --name n1
        cronclave node --config cluster.toml --name n1 --data-dir /var/lib/cronclave/n1
    """,
)
@configured
def node(config: Config, /) -> int:
    """Run one node in the foreground until it is told to stop (TERM, or Ctrl-C)."""
    from node.config import missing_files  # noqa: PLC0415

    faults = missing_files(config)
    if faults:
        raise CommandFailed("\n".join(str(fault) for fault in faults))
    from node.main import run_node  # noqa: PLC0415

    return run_node(config)
