"""Commands about runs: `list`, `get`, `output`, `cancel`."""

from __future__ import annotations

from typing import Any

import click

from node.cli.client import segment
from node.cli.columns import RUNS, run_id, run_lines
from node.cli.commands import Command
from node.cli.session import Session, addressed, counted

# Asked for this type, a node sends what was printed as it is; else it repairs the text.
BYTES = "application/octet-stream"


def _path(run: str) -> str:
    return f"/v1/runs/{segment(run)}"


@click.command(
    "list",
    cls=Command,
    examples="""
        cronclave run list
        cronclave run list --job report --limit 10
        cronclave run list --outcome failed --since 2026-11-23T00:00:00Z -o json
    """,
)
@click.option("--job", metavar="JOB", help="Of this job: NAME, NAMESPACE/NAME or id.")
@click.option("--state", metavar="STATE", help="queued, waiting, claimed, running or ended.")
@click.option("--outcome", "outcomes", multiple=True, metavar="OUTCOME", help="May be repeated.")
@click.option("--member", metavar="NAME", help="On this member.")
@click.option("--since", metavar="TIME", help="Not before this time.")
@click.option("--until", metavar="TIME", help="Before this time.")
@counted
@addressed
def list_runs(
    session: Session,
    /,
    job: str | None,
    state: str | None,
    outcomes: tuple[str, ...],
    member: str | None,
    since: str | None,
    until: str | None,
    count: int | None,
) -> None:
    """List runs, the latest first."""
    query = [("outcome", outcome) for outcome in outcomes]
    span = {"since": since, "until": until}
    filters = {"state": state, "node": member, "namespace": session.namespace}

    def wanted(item: dict[str, Any]) -> bool:
        # A job's own list has occurrences without a run as well, and no such filters.
        is_run = item.get("kind") == "run"
        return is_run and state in (None, item["state"]) and member in (None, item["member"])

    if job is None:
        query += _given({**span, **filters})
        found = session.client.items("/v1/runs", query, count)
    else:
        query += _given(span)
        found = session.client.items(f"{session.job_path(job)}/runs", query, count, wanted)
    session.printer.many(found, RUNS, run_id, "No runs.")


def _given(options: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in options.items() if value is not None]


@click.command(cls=Command, examples="cronclave run get RUN -o json")
@click.argument("run")
@addressed
def get(session: Session, /, run: str) -> None:
    """Show the run with the id RUN, with its attempts."""
    found = session.client.get(_path(run)).json()
    session.printer.one(found, run_lines(found, session.printer), run_id)


@click.command(
    cls=Command,
    examples="""
        cronclave run output RUN
        cronclave run output RUN --attempt 1 > first-attempt.log
    """,
)
@click.argument("run")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt.  [the last]")
@addressed
def output(session: Session, /, run: str, attempt: int | None) -> None:
    """Print what the run with the id RUN has printed, byte for byte."""
    query = [] if attempt is None else [("attempt", str(attempt))]
    answer = session.client.get(f"{_path(run)}/output", query, accept=BYTES)
    with click.open_file("-", "wb") as stream:
        stream.write(answer.body)
        stream.flush()


@click.command(cls=Command, examples="cronclave run cancel RUN")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@addressed
def cancel(session: Session, /, runs: tuple[str, ...]) -> None:
    """Cancel each RUN: it does not start, or is stopped."""
    for run in runs:
        answer = session.client.post(f"{_path(run)}/cancel").json()
        if session.printer.form in ("json", "yaml"):
            session.printer.data(answer)
        else:
            click.echo(run if session.printer.form == "name" else f"{run} cancelled")
