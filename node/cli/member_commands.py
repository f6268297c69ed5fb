"""Commands that act on one member: `member drain`."""

from __future__ import annotations

import click

from node.cli import addresses
from node.cli.client import Client, segment
from node.cli.commands import Command
from node.cli.exits import NOT_FOUND, CommandFailed
from node.cli.session import Session, addressed


@click.command(
    cls=Command,
    examples="""
        cronclave member drain n2
        cronclave member drain n2 --addr http://127.0.0.1:8901
    """,
)
@click.argument("name", metavar="MEMBER")
@addressed
def drain(session: Session, /, name: str) -> None:
    """Let MEMBER hand over what it has and stop, as the signal TERM does.

    It takes nothing more, gives back what has not started, hands leadership over, lets runs
    come to their end for as long as its `drain_grace` allows, and ends with status 0.
    """
    members = session.client.items("/v1/members", (), None)
    found = next((member for member in members if member.get("name") == name), None)
    if found is None:
        raise CommandFailed(f'There is no member "{name}".', NOT_FOUND)
    # Only the member itself can put down what it holds.
    own = Client(addresses.parse_addresses(str(found["http_address"])), session.environment)
    answer = own.post(f"/v1/members/{segment(name)}/drain").json()
    if session.printer.form in ("json", "yaml"):
        session.printer.data(answer)
    else:
        click.echo(name if session.printer.form == "name" else f"{name} is draining")
