"""What a command prints: data on standard output in the form that was asked for.

A table is for people: aligned, with relative times and colours on a terminal, and plain with
full times elsewhere. `json` and `yaml` are what the API answered, `name` is one name a line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from node.cli.exits import CommandFailed
from node.cli.text import NONE, printable, relative
from storage.clock import Environment

FORMS = ("table", "json", "yaml", "name")
COLOURS = {
    "succeeded": "green", "failed": "red", "timed_out": "red", "lost": "red",
    "unknown": "yellow", "cancelled": "yellow", "running": "cyan", "paused": "yellow",
}  # fmt: skip
GAP = "   "


class Column(NamedTuple):
    """One column of a table; `cell` makes its text from an item."""

    title: str
    cell: Callable[[Mapping[str, Any]], str | None]
    is_time: bool = False


class Printer:
    """Prints items in one form."""

    def __init__(self, form: str, environment: Environment) -> None:
        self.form = form
        self._environment = environment
        self.on_terminal = sys.stdout.isatty()
        self._coloured = self.on_terminal and not os.environ.get("NO_COLOR")

    def many(
        self,
        items: Iterable[Mapping[str, Any]],
        columns: Sequence[Column],
        name: Callable[[Mapping[str, Any]], str],
        nothing: str,
    ) -> None:
        """Print a list; `nothing` is said on standard error if a table would be empty."""
        if self.form == "name":
            for item in items:
                click.echo(printable(name(item)))
            return
        if self.form != "table":
            self.data(list(items))
            return
        rows = [[self._cell(column, item) for column in columns] for item in items]
        if not rows:
            say(nothing)
            return
        self._table([[column.title for column in columns], *rows])

    def one(
        self,
        item: Mapping[str, Any],
        lines: Iterable[tuple[str, str | None]],
        name: Callable[[Mapping[str, Any]], str],
    ) -> None:
        """Print one item: as pairs of a label and a text, or in the other forms."""
        if self.form == "name":
            click.echo(printable(name(item)))
        elif self.form == "table":
            self.pairs(lines)
        else:
            self.data(item)

    def pairs(self, lines: Iterable[tuple[str, str | None]]) -> None:
        """Print labels and texts in two columns; those without a text are left out."""
        shown = [(label, text) for label, text in lines if text is not None]
        width = max((len(label) for label, _ in shown), default=0)
        for label, text in shown:
            click.echo(f"{label:{width}}  {self._painted(printable(text))}")

    def data(self, value: object) -> None:
        """Print a value as JSON or YAML."""
        if self.form == "yaml":
            click.echo(yaml_text(value), nl=False)
        else:
            click.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def moment(self, text: str | None) -> str | None:
        """Return a time as it is shown here: with its distance on a terminal."""
        if text is None or not self.on_terminal:
            return text
        return f"{text} ({relative(text, self._environment.wall_ms())})"

    def _cell(self, column: Column, item: Mapping[str, Any]) -> str:
        text = column.cell(item)
        if text and column.is_time and self.on_terminal:
            text = relative(text, self._environment.wall_ms())
        return printable(text) if text else NONE

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = [
                self._painted(cell) + " " * (width - len(cell))
                for cell, width in zip(row, widths, strict=True)
            ]
            click.echo(GAP.join(padded).rstrip())

    def _painted(self, text: str) -> str:
        colour = COLOURS.get(text) if self._coloured else None
        return click.style(text, fg=colour) if colour else text


def say(message: str) -> None:
    """Tell the user something that is not data."""
    click.echo(printable_lines(message), err=True)


def printable_lines(message: str) -> str:
    return "\n".join(printable(line) for line in message.split("\n"))


def yaml_text(value: object) -> str:
    """Return a value as YAML.

    Raises:
        CommandFailed: PyYAML is not installed.
    """
    try:
        import yaml  # noqa: PLC0415
    except ImportError:
        raise CommandFailed(NO_YAML) from None
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


NO_YAML = (
    "YAML needs PyYAML, which is not installed here: pip install 'cronclave[yaml]'. "
    "JSON and TOML work without it."
)
