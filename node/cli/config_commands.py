"""Commands about a node's configuration: `show`, `example`; and the options that choose one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.commands import Command
from node.cli.exits import CommandFailed
from node.cli.session import pairs

if TYPE_CHECKING:
    from node.config import Config

FILE_VARIABLE = "CRONCLAVE_CONFIG"

Function = Callable[..., Any]


def configured(function: Function) -> Function:
    """Give a command the options that choose a configuration, and the `Config` first."""

    @click.option(
        "--config", "file", envvar=FILE_VARIABLE, metavar="FILE",
        help=f"Configuration file.  [{FILE_VARIABLE}]",
    )  # fmt: skip
    @click.option("--name", metavar="NAME", help="Which member this node is (node.name).")
    @click.option("--data-dir", metavar="DIR", help="Where it keeps its state (node.data_dir).")
    @click.option("--port", metavar="PORT", help="Port of the API (http.port).")
    @click.option(
        "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any other setting."
    )
    @functools.wraps(function)
    def wrapped(
        *args: Any,
        file: str | None,
        name: str | None,
        data_dir: str | None,
        port: str | None,
        settings: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        overrides = pairs(settings, "--set")
        short = {"node.name": name, "node.data_dir": data_dir, "http.port": port}
        overrides.update({path: value for path, value in short.items() if value is not None})
        return function(_load(file, overrides), *args, **kwargs)

    return wrapped


def _load(file: str | None, overrides: dict[str, str]) -> Config:
    from node.config import ConfigRefused, load_config  # noqa: PLC0415

    try:
        return load_config(Path(file) if file else None, os.environ, overrides)
    except ConfigRefused as refused:
        hint = "" if file else "\nNo file was given: --config FILE, or `cronclave config example`."
        raise CommandFailed(f"The configuration is refused:\n{refused}{hint}") from None


@click.command(
    cls=Command,
    examples="""
        cronclave config show --config cluster.toml --name n1 --origin
        CRONCLAVE_RAFT__HEARTBEAT=50ms cronclave config show --config cluster.toml --name n1
    """,
)
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@configured
def show(config: Config, /, origin: bool) -> None:
    """Print the configuration that a node with these options would have."""
    from node.config.text import render_config  # noqa: PLC0415

    click.echo(render_config(config, origins=origin), nl=False)


@click.command(cls=Command, examples="cronclave config example > cluster.toml")
def example() -> None:
    """Print a configuration file with every setting, its default, its bounds and its use."""
    from node.config.text import render_example  # noqa: PLC0415

    click.echo(render_example(), nl=False)
