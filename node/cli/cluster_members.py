"""Commands that change who belongs to the cluster: `remove`, `promote`, `demote`, `move`."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from node.cli.client import segment
from node.cli.commands import Command
from node.cli.exits import TIMEOUT, CommandFailed
from node.cli.session import Session, addressed

WAIT_S_MAX = 60.0
POLL_S = 0.2

Function = Callable[..., Any]


def waiting(function: Function) -> Function:
    """Give a command the option not to wait until the change is made."""

    @click.option("--no-wait", is_flag=True, help="Return when it is agreed, before it is done.")
    @functools.wraps(function)
    def wrapped(*args: Any, no_wait: bool, **kwargs: Any) -> Any:
        return function(*args, wait=not no_wait, **kwargs)

    return wrapped


@click.command(cls=Command, examples="cronclave cluster remove n5 --yes")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@waiting
@addressed
def remove(session: Session, /, name: str, yes: bool, wait: bool) -> None:
    """Remove the member NAME for good. If it leads, it hands leadership over first.

    Its process ends by itself, and its data directory is of no more use. What it runs is
    started again elsewhere when its lease is over.
    """
    if not yes and sys.stdin.isatty() and not click.confirm(f"Remove {name}?", err=True):
        raise CommandFailed("Nothing was removed.")
    session.client.delete(f"/v1/members/{segment(name)}")
    _finish(session, name, wait, lambda member: member is None, "removed")


@click.command(cls=Command, examples="cronclave cluster promote worker-7")
@click.argument("name")
@waiting
@addressed
def promote(session: Session, /, name: str, wait: bool) -> None:
    """Give the member NAME a vote, once it has caught up."""
    session.client.patch(f"/v1/members/{segment(name)}", {"role": "voter"})
    _finish(session, name, wait, lambda member: _role(member) == "voter", "votes")


@click.command(cls=Command, examples="cronclave cluster demote n5")
@click.argument("name")
@waiting
@addressed
def demote(session: Session, /, name: str, wait: bool) -> None:
    """Take the vote of the member NAME away; it goes on to replicate and to execute."""
    session.client.patch(f"/v1/members/{segment(name)}", {"role": "nonvoting"})
    _finish(session, name, wait, lambda member: _role(member) == "nonvoting", "does not vote")


@click.command(cls=Command, examples="cronclave cluster move n2 10.0.0.22:7901")
@click.argument("name")
@click.argument("address", metavar="HOST:PORT")
@waiting
@addressed
def move(session: Session, /, name: str, address: str, wait: bool) -> None:
    """Tell all members that NAME is reached at another address from now on.

    Change the address in its own configuration file as well and start it there; which of the
    two comes first does not matter.
    """
    session.client.patch(f"/v1/members/{segment(name)}", {"address": address})
    done = functools.partial(_is_at, address)
    _finish(session, name, wait, done, f"is at {address}")


def _role(member: Mapping[str, Any] | None) -> str | None:
    return None if member is None else member.get("role")


def _is_at(address: str, member: Mapping[str, Any] | None) -> bool:
    return member is not None and member.get("address") == address


def _finish(
    session: Session,
    name: str,
    wait: bool,
    done: Callable[[Mapping[str, Any] | None], bool],
    said: str,
) -> None:
    if wait:
        _wait(session, name, done)
    if session.printer.form == "name":
        click.echo(name)
    else:
        click.echo(f"{name} {said}" if wait else f"{name}: agreed")


def _wait(session: Session, name: str, done: Callable[[Mapping[str, Any] | None], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while True:
        members = session.client.get("/v1/cluster/configuration").json()["members"]
        found = next((m for m in members if m["name"] == name and m["role"] is not None), None)
        if done(found):
            return
        if time.monotonic() > deadline_s:
            raise CommandFailed(
                f"It is agreed, and not done after {WAIT_S_MAX:.0f} s; the cluster goes on with "
                "it as soon as it can. `cronclave member list` shows how far it is.",
                TIMEOUT,
            )
        time.sleep(POLL_S)
