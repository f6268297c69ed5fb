"""Commands that show jobs: `list`, `get`, `history`, `next`."""

from __future__ import annotations

import click

from node.cli.columns import HISTORY, JOBS, job_lines, job_name, run_id, text_of
from node.cli.commands import Command
from node.cli.output import Column, say
from node.cli.session import Session, addressed, counted

# What a user says about a job; everything else in its document is set by the cluster.
DEFINED = (
    "name", "namespace", "schedule", "action", "description", "priority", "timeout", "retry",
    "overlap", "delivery", "catch_up", "placement", "alerts", "labels", "output_limit",
)  # fmt: skip

NEXT = (
    Column("SCHEDULED", text_of("scheduled_at")),
    Column("LOCAL", text_of("local")),
    Column("", text_of("scheduled_at"), is_time=True),
)


@click.command(
    "list",
    cls=Command,
    examples="""
        cronclave job list
        cronclave job list -n billing --status paused
        cronclave job list --label team=billing -o name
    """,
)
@click.option("--status", metavar="STATUS", help="scheduled, paused or finished.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("-q", "--query", "text", metavar="TEXT", help="With this text in the name.")
@counted
@addressed
def list_jobs(
    session: Session,
    /,
    status: str | None,
    labels: tuple[str, ...],
    text: str | None,
    count: int | None,
) -> None:
    """List jobs, of all namespaces unless one is named."""
    given = {"namespace": session.namespace, "status": status, "q": text}
    query = [(key, value) for key, value in given.items() if value is not None]
    query += [("label", label) for label in labels]
    jobs = session.client.items("/v1/jobs", query, count)
    session.printer.many(jobs, JOBS, job_name, "No jobs. Make one: cronclave job create --help")


@click.command(
    cls=Command,
    examples="""
        cronclave job get report
        cronclave job get billing/report -o json
        cronclave job get report --definition -o yaml > report.yaml
    """,
)
@click.argument("job")
@click.option("--definition", is_flag=True, help="Only what `job apply` takes.")
@addressed
def get(session: Session, /, job: str, definition: bool) -> None:
    """Show JOB, given as NAME, NAMESPACE/NAME or id."""
    found = session.client.get(session.job_path(job)).json()
    if definition:
        found = {field: found[field] for field in DEFINED if field in found}
        if session.printer.form == "table":
            session.printer.form = "json"
    session.printer.one(found, job_lines(found, session.printer), job_name)


@click.command(
    cls=Command,
    examples="""
        cronclave job history report
        cronclave job history report --outcome skipped --outcome failed
        cronclave job history report --limit 500 -o json
    """,
)
@click.argument("job")
@click.option("--outcome", "outcomes", multiple=True, metavar="OUTCOME", help="May be repeated.")
@click.option("--since", metavar="TIME", help="Not before this time.")
@click.option("--until", metavar="TIME", help="Before this time.")
@counted
@addressed
def history(
    session: Session,
    /,
    job: str,
    outcomes: tuple[str, ...],
    since: str | None,
    until: str | None,
    count: int | None,
) -> None:
    """Show what became of each occurrence of JOB: a run, or the reason why there was none."""
    given = {"since": since, "until": until}
    query = [(key, value) for key, value in given.items() if value is not None]
    query += [("outcome", outcome) for outcome in outcomes]
    found = session.client.items(f"{session.job_path(job)}/runs", query, count)
    session.printer.many(found, HISTORY, run_id, "No occurrence yet.")


@click.command("next", cls=Command, examples="cronclave job next report --count 10")
@click.argument("job")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@addressed
def next_times(session: Session, /, job: str, count: int) -> None:
    """Show when JOB will start, or would if it were not paused."""
    path = f"{session.job_path(job)}/next"
    found = session.client.get(path, [("count", str(count))]).json()
    if found.get("paused"):
        say("The job is paused; these are the times it would have.")
    printer = session.printer
    columns = NEXT if printer.on_terminal else NEXT[:-1]
    printer.many(
        found["items"], columns, lambda item: str(item["scheduled_at"]), "No start lies ahead."
    )
