"""Commands about the cluster as a whole: `cluster status`, `member list`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from node.cli.columns import fields_text, labels_text, text_of
from node.cli.commands import Command
from node.cli.output import Column, Printer
from node.cli.session import Session, addressed


def _running(member: Mapping[str, Any]) -> str | None:
    return f"{member.get('running', 0)}/{member['slots']}" if "slots" in member else None


MEMBERS = (
    Column("NAME", text_of("name")),
    Column("ROLE", text_of("role")),
    Column("STATUS", text_of("status")),
    Column("RUNNING", _running),
    Column("HTTP", text_of("http_address")),
    Column("VERSION", text_of("version")),
    Column("LEASE UNTIL", text_of("lease_until"), is_time=True),
    Column("LABELS", lambda member: labels_text(member.get("labels"))),
)


@click.command(
    cls=Command,
    examples="""
        cronclave cluster status
        cronclave cluster status --addr http://127.0.0.1:8902 -o json
    """,
)
@addressed
def status(session: Session, /) -> None:
    """Show how one node sees the cluster at this moment."""
    found = session.client.get("/v1/cluster").json()
    lines = _status_lines(found, session.printer)
    session.printer.one(found, lines, lambda item: str(item.get("cluster", "")))


def _status_lines(found: Mapping[str, Any], printer: Printer) -> Iterator[tuple[str, str | None]]:
    for key, value in found.items():
        label = key.replace("_", " ").capitalize()
        if isinstance(value, Mapping):
            yield label, fields_text(value)
        elif isinstance(value, list):
            yield label, ", ".join(_member_text(item) for item in value) or None
        elif isinstance(value, bool):
            yield label, "yes" if value else "no"
        elif value is not None:
            yield label, str(value)


def _member_text(item: Any) -> str:
    return str(item.get("name", item)) if isinstance(item, Mapping) else str(item)


@click.command("list", cls=Command, examples="cronclave member list -o json")
@addressed
def list_members(session: Session, /) -> None:
    """List the members of the cluster, as their heartbeats last told.

    ROLE is voter, learner (on its way to a vote) or nonvoting; one that was never heard of
    yet has nothing else to show.
    """
    members = list(session.client.items("/v1/members", (), None))
    known = {member.get("name") for member in members}
    seats = session.client.get("/v1/cluster/configuration").json()["members"]
    members += [
        {"name": seat["name"], "role": seat["role"] or "wanted", "status": "not_heard_yet"}
        for seat in seats
        if seat["name"] not in known
    ]
    session.printer.many(
        members, MEMBERS, lambda member: str(member.get("name", "")), "No member is known yet."
    )
