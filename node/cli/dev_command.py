"""`cronclave dev`: a cluster on this machine, with one command."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from node.cli.commands import Command
from node.cli.exits import CommandFailed

DIRECTORY = ".dev"
NODES_MAX = 9
PORT_HIGHEST = 60_000


@click.command(
    cls=Command,
    examples="""
        cronclave dev
        cronclave dev --nodes 5 --port 9001 --data /tmp/cluster
    """,
)
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), metavar="N", help="How many.  [3]")
@click.option("--data", metavar="DIR", help=f"Where the cluster lives.  [{DIRECTORY}/]")
@click.option(
    "--port",
    type=click.IntRange(1_024, PORT_HIGHEST),
    metavar="PORT",
    help="Port of the first node's API; the others follow.  [8901]",
)
@click.option("--no-samples", is_flag=True, help="Begin without jobs.")
def dev(nodes: int | None, data: str | None, port: int | None, no_samples: bool) -> int:
    """Run a cluster on this machine until Ctrl-C, for trying out and for development.

    It has certificates, disks and processes like a real one. Called again with the same
    --data it goes on where it was. A node that you kill stays dead until you start it again;
    the command for that is printed.
    """
    from node.cli.dev_cluster import DevCluster  # noqa: PLC0415
    from node.cli.dev_layout import prepare  # noqa: PLC0415
    from storage.clock import SystemEnvironment  # noqa: PLC0415

    environment = SystemEnvironment()
    layout = prepare(_directory(data), nodes, port, environment)
    return DevCluster(layout, environment).run(samples=not no_samples)


def _directory(data: str | None) -> Path:
    if data is not None:
        return Path(data).absolute()
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise CommandFailed("The current folder does not exist any more; use --data.") from None
    if (here / DIRECTORY).is_dir() or os.access(here, os.W_OK):
        return here / DIRECTORY
    return Path(tempfile.mkdtemp(prefix="cronclave-dev-"))
