"""The kinds of command: help that begins with examples, and groups that load nothing early."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """A command that is not loaded yet: what help says of it, and "module:attribute"."""

    summary: str
    target: str = ""
    commands: Mapping[str, Entry] = {}
    examples: str = ""
    epilog: str = ""


class Command(click.Command):
    """A command whose help begins with `examples`, one a line."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)
        super().format_help(ctx, formatter)


class Group(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.summary, no_args_is_help=True)
        self._entry = entry

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entry.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entry.commands.get(cmd_name)
        if entry is None:
            return None
        if entry.commands:
            return Group(cmd_name, entry)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._entry.commands and not args[0].startswith("-"):
            near = get_close_matches(args[0], self._entry.commands, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"There is no command `{ctx.command_path} {args[0]}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self._entry.examples)
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.summary) for name, entry in self._entry.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._entry.epilog:
            formatter.write(f"\n{self._entry.epilog}\n")


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write the examples as they stand, above everything else."""
    lines = [line.strip() for line in examples.strip().splitlines()]
    if lines:
        formatter.write("Examples:\n")
        formatter.write("".join(f"  {line}\n" for line in lines))
        formatter.write("\n")
