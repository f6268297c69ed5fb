"""Commands that change a job's state: `delete`, `pause`, `resume`."""

from __future__ import annotations

import sys

import click

from node.cli.columns import job_name
from node.cli.commands import Command
from node.cli.exits import USAGE, CommandFailed
from node.cli.session import Session, addressed


@click.command(cls=Command, examples="cronclave job delete report --yes")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@addressed
def delete(session: Session, /, jobs: tuple[str, ...], yes: bool) -> None:
    """Delete each JOB. Its live runs go on to their end; its history is kept for a while."""
    if not yes and sys.stdin.isatty():
        names = ", ".join(jobs)
        if not click.confirm(f"Delete {names}?", err=True):
            raise CommandFailed("Nothing was deleted.")
    for job in jobs:
        session.client.delete(session.job_path(job))
        _confirm(session, job, "deleted")


@click.command(cls=Command, examples="cronclave job pause report")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@addressed
def pause(session: Session, /, jobs: tuple[str, ...]) -> None:
    """Stop each JOB from starting by itself. Runs that are under way go on."""
    _act(session, jobs, "pause", "paused")


@click.command(cls=Command, examples="cronclave job resume report")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@addressed
def resume(session: Session, /, jobs: tuple[str, ...]) -> None:
    """Let each paused JOB start again; its catch-up policy decides on what it missed."""
    _act(session, jobs, "resume", "resumed")


def _act(session: Session, jobs: tuple[str, ...], action: str, done: str) -> None:
    if session.printer.form in ("json", "yaml") and len(jobs) > 1:
        raise CommandFailed(f"-o {session.printer.form} takes one job here.", USAGE)
    for job in jobs:
        answer = session.client.post(f"{session.job_path(job)}/{action}").json()
        if session.printer.form in ("json", "yaml"):
            session.printer.data(answer)
        else:
            _confirm(session, job_name(answer) if answer.get("name") else job, done)


def _confirm(session: Session, job: str, done: str) -> None:
    click.echo(job if session.printer.form == "name" else f"{job} {done}")
