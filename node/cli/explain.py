"""`cronclave explain`: what a cron expression means, worked out here and not by a node."""

from __future__ import annotations

from typing import Any

import click

from node.cli.commands import Command
from node.cli.exits import ERROR, CommandFailed
from node.cli.output import FORMS, Column, Printer, say
from storage.clock import SystemEnvironment

# What `H` in an expression stands for depends on the job's name, which is not known here.
SEED = b"default/explain"


@click.command(
    cls=Command,
    examples="""
        cronclave explain '0 3 * * 1-5'
        cronclave explain '30 2 * * *' --tz Europe/Berlin --count 10
        cronclave explain @daily -o json
    """,
)
@click.argument("expression")
@click.option("--tz", metavar="ZONE", default="UTC", show_default=True, help="Time zone.")
@click.option("--count", type=click.IntRange(0, 1_000), default=5, show_default=True)
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table", help="Form.")
def explain(expression: str, tz: str, count: int, form: str) -> None:
    """Say in words what the cron EXPRESSION means, when it fires next, and what may surprise."""
    from api import schedule  # noqa: PLC0415
    from api.durations import format_time  # noqa: PLC0415

    environment = SystemEnvironment()
    now_ms = environment.wall_ms()
    raw = {"cron": expression, "timezone": tz}
    spec, faults = schedule.parse_schedule(raw, now_ms=now_ms, seed=SEED, pointer="")
    if spec is None:
        lines = [f"{fault.pointer.lstrip('/')}: {fault.detail}" for fault in faults]
        raise CommandFailed("\n".join(lines), ERROR)
    found = schedule.explain(spec, now_ms, count)
    document: dict[str, Any] = {
        "expression": found.expression,
        "timezone": tz,
        "sentence": found.sentence,
        "next": [{"at": format_time(at_ms), "local": local} for at_ms, local in found.occurrences],
        "warnings": [{"code": code, "detail": detail} for code, detail in found.warnings],
    }
    _print(document, Printer(form, environment))


def _print(document: dict[str, Any], printer: Printer) -> None:
    if printer.form in ("json", "yaml"):
        printer.data(document)
        return
    if printer.form == "table":
        click.echo(document["sentence"])
        for warning in document["warnings"]:
            say(f"Warning: {warning['detail']}")
    columns = (
        Column("UTC", lambda item: item["at"]),
        Column("LOCAL", lambda item: item["local"]),
    )
    shown = columns if document["timezone"] != "UTC" else columns[:1]
    printer.many(document["next"], shown, lambda item: str(item["at"]), "It never fires.")
