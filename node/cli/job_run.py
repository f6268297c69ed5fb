"""`cronclave job run`: start a job now, and wait for the run's end if asked to."""

from __future__ import annotations

import threading

import click

from node.cli.client import segment
from node.cli.columns import run_id, run_lines, run_result
from node.cli.commands import Command
from node.cli.exits import OK, RUN_FAILED, TIMEOUT, CommandFailed
from node.cli.output import say
from node.cli.session import Session, addressed, duration_ms

# The API has no way to wait for one run, so it is asked again, soon at first.
FIRST_PAUSE_S = 0.05
PAUSE_FACTOR = 1.5
PAUSE_S_MAX = 1.0


@click.command(
    cls=Command,
    examples="""
        cronclave job run report
        cronclave job run report --wait --wait-timeout 10m
        cronclave run output "$(cronclave job run report --wait -o name)"
    """,
)
@click.argument("job")
@click.option("--wait", is_flag=True, help="Wait for the end; exit with 7 unless it succeeds.")
@click.option("--wait-timeout", metavar="DURATION", help="Wait no longer; exit with 124 then.")
@addressed
def run(session: Session, /, job: str, wait: bool, wait_timeout: str | None) -> int:
    """Start JOB now, whatever its schedule says."""
    limit_s = None
    if wait_timeout is not None:
        limit_s = duration_ms(wait_timeout, "--wait-timeout") / 1_000
    answer = session.client.post(f"{session.job_path(job)}/run")
    started = answer.json()
    if not (wait or wait_timeout):
        _report(session, started)
        return OK
    if session.printer.form == "table":
        say(f"{run_id(started)} started; waiting for its end.")
    ended = wait_for_end(session, run_id(started), answer.log_index, limit_s)
    _report(session, ended)
    return OK if ended.get("outcome") == "succeeded" else RUN_FAILED


def _report(session: Session, run_document: dict[str, object]) -> None:
    session.printer.one(run_document, run_lines(run_document, session.printer), run_id)


def wait_for_end(
    session: Session, run: str, index: str | None, limit_s: float | None
) -> dict[str, object]:
    """Return the run once it has ended.

    `index` is a log index at which it is known to exist: any node that is asked catches up
    to it first.

    Raises:
        CommandFailed: it goes on after `limit_s`.
    """
    environment = session.environment
    deadline_s = None if limit_s is None else environment.monotonic_s() + limit_s
    query = [] if index is None else [("min_index", index)]
    pause_s = FIRST_PAUSE_S
    waiting = threading.Event()
    while True:
        found: dict[str, object] = session.client.get(f"/v1/runs/{segment(run)}", query).json()
        if found.get("state") == "ended":
            return found
        if deadline_s is not None and environment.monotonic_s() + pause_s > deadline_s:
            state = run_result(found)
            raise CommandFailed(f"Run {run} is {state} after {limit_s:g} s; it goes on.", TIMEOUT)
        waiting.wait(pause_s)
        pause_s = min(pause_s * PAUSE_FACTOR, PAUSE_S_MAX)
