"""`cronclave job create`: a job from options."""

from __future__ import annotations

from typing import Any

import click

from node.cli.columns import job_name
from node.cli.commands import Command
from node.cli.exits import USAGE, CommandFailed
from node.cli.output import say
from node.cli.session import Session, addressed, pairs

OVERLAPS = ("skip", "allow", "buffer_one", "cancel_other")
DELIVERIES = ("at_least_once", "at_most_once")
CATCH_UPS = ("skip", "last", "first", "all")
NEXT_SHOWN = 3


@click.command(
    cls=Command,
    examples="""
        cronclave job create hello --every 10s -- echo hello
        cronclave job create report --cron '0 3 * * *' --tz Europe/Berlin --retries 3 -- make report
        cronclave job create ping --every 30s --http https://host/ping --expect-status 2xx
        cronclave job create launch --at 2027-01-01T00:00:00Z --http https://host/go --method POST
        cronclave job create cleanup --manual --timeout 10m -- /usr/local/bin/cleanup --all
    """,
)
@click.argument("name")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@click.option("--at", metavar="TIME", help="Once, at this time: 2027-01-01T00:00:00Z.")
@click.option("--every", metavar="DURATION", help="Again and again, at this distance: 90s, 1h30m.")
@click.option("--cron", metavar="EXPRESSION", help="At the times of a cron expression.")
@click.option("--delay", metavar="DURATION", help="This long after the end of the last run.")
@click.option("--manual", is_flag=True, help="Only when it is started by hand.")
@click.option("--tz", metavar="ZONE", help="Time zone of --cron, such as Europe/Berlin.")
@click.option("--anchor", metavar="TIME", help="A time that --every is in step with.")
@click.option("--not-before", metavar="TIME", help="No occurrence before this time.")
@click.option("--not-after", metavar="TIME", help="No occurrence after this time.")
@click.option("--max-runs", type=int, metavar="N", help="No more than N runs by schedule.")
@click.option("--jitter", metavar="DURATION", help="Start up to this much later.")
@click.option("--http", "url", metavar="URL", help="Send an HTTP request.")
@click.option("--method", metavar="METHOD", help="Method of --http.  [GET]")
@click.option("--header", "headers", multiple=True, metavar="'NAME: TEXT'", help="With --http.")
@click.option("--body", metavar="TEXT", help="Body of --http; @FILE reads it from a file.")
@click.option("--expect-status", multiple=True, metavar="STATUS", help="Success: 204, 2xx.")
@click.option("--noop", is_flag=True, help="Do nothing, for trials.")
@click.option("--duration", metavar="DURATION", help="How long --noop takes.")
@click.option("--description", metavar="TEXT", help="What the job is for.")
@click.option("--priority", type=int, metavar="N", help="0 to 100; higher starts first.  [50]")
@click.option("--timeout", metavar="DURATION", help="End an attempt after this time.")
@click.option("--retries", type=click.IntRange(0), metavar="N", help="Tries after the first.  [0]")
@click.option("--backoff", metavar="DURATION", help="Before the first retry; doubles.  [5s]")
@click.option("--max-backoff", metavar="DURATION", help="The longest of these.  [5m]")
@click.option("--overlap", type=click.Choice(OVERLAPS), help="When the last run goes on.  [skip]")
@click.option("--delivery", type=click.Choice(DELIVERIES), help="When a node is lost.")
@click.option("--catch-up", type=click.Choice(CATCH_UPS), help="What of missed times.  [last]")
@click.option("--catch-up-window", metavar="DURATION", help="Not older than this.  [1h]")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--placement", multiple=True, metavar="KEY=VALUE", help="Labels of the members.")
@click.option("--output-limit", type=int, metavar="BYTES", help="Kept of the output.")
@click.option("--dry-run", is_flag=True, help="Say what would be created, and do nothing.")
@addressed
def create(session: Session, /, name: str, dry_run: bool, **options: Any) -> None:
    """Create the job NAME, with a schedule and with what it does.

    What it does is a command after `--`, or --http, or --noop. A schedule is one of --at,
    --every, --cron, --delay and --manual. Times carry their offset (…Z, …+01:00).
    """
    namespace, plain_name = session.split(name)
    document = {"namespace": namespace, "name": plain_name, **_document(options)}
    query = [("dry_run", "true")] if dry_run else []
    answer = session.client.post("/v1/jobs", document, query)
    report(session, answer.json())


def _document(options: dict[str, Any]) -> dict[str, Any]:
    """Return a job's fields from the options that were given."""
    document: dict[str, Any] = {"schedule": _schedule(options), "action": _action(options)}
    for field in ("description", "priority", "timeout", "overlap", "delivery", "output_limit"):
        if options[field] is not None:
            document[field] = options[field]
    retries = options["retries"]
    groups = {
        "retry": {
            "max_attempts": None if retries is None else retries + 1,
            "backoff": options["backoff"],
            "max_backoff": options["max_backoff"],
        },
        "catch_up": {"policy": options["catch_up"], "window": options["catch_up_window"]},
    }
    for field, group in groups.items():
        given = {key: value for key, value in group.items() if value is not None}
        if given:
            document[field] = given
    if options["labels"]:
        document["labels"] = pairs(options["labels"], "--label")
    if options["placement"]:
        document["placement"] = {"labels": pairs(options["placement"], "--placement")}
    return document


def _schedule(options: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in ("at", "every", "cron", "delay", "manual") if options[kind]]
    if len(kinds) != 1:
        given = " and ".join(f"--{kind}" for kind in kinds) or "none"
        raise CommandFailed(
            f"A job has one of --at, --every, --cron, --delay or --manual; given: {given}.", USAGE
        )
    schedule: dict[str, Any] = {kinds[0]: options[kinds[0]]}
    if options["tz"] is not None:
        schedule["timezone"] = options["tz"]
    for field in ("anchor", "not_before", "not_after", "max_runs", "jitter"):
        if options[field] is not None:
            schedule[field] = options[field]
    return schedule


def _action(options: dict[str, Any]) -> dict[str, Any]:
    given = {"a command after --": options["argv"], "--http": options["url"]}
    given["--noop"] = options["noop"]
    kinds = [words for words, value in given.items() if value]
    if len(kinds) != 1:
        shown = " and ".join(kinds) or "none"
        raise CommandFailed(
            f"A job has a command after `--`, or --http, or --noop; given: {shown}.", USAGE
        )
    _check_belongs(options)
    if options["argv"]:
        return {"type": "command", "argv": list(options["argv"])}
    if options["noop"]:
        duration = options["duration"]
        return {"type": "noop"} if duration is None else {"type": "noop", "duration": duration}
    return _http(options)


def _check_belongs(options: dict[str, Any]) -> None:
    owners = {"method": "url", "headers": "url", "body": "url", "expect_status": "url"}
    owners["duration"] = "noop"
    for field, owner in owners.items():
        if options[field] and not options[owner]:
            option = "--" + field.replace("_", "-").removesuffix("s" if field == "headers" else "")
            needed = "--http" if owner == "url" else "--noop"
            raise CommandFailed(f"{option} goes with {needed} only.", USAGE)


def _http(options: dict[str, Any]) -> dict[str, Any]:
    action: dict[str, Any] = {"type": "http", "url": options["url"]}
    if options["method"]:
        action["method"] = options["method"].upper()
    headers = {}
    for text in options["headers"]:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise CommandFailed(f'--header takes "Name: text", not "{text}".', USAGE)
        headers[name.strip()] = value.strip()
    if headers:
        action["headers"] = headers
    if options["body"] is not None:
        action["body"] = _body(options["body"])
    if options["expect_status"]:
        action["expect_status"] = list(options["expect_status"])
    return action


def _body(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        with open(text[1:], encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"--body {text}: {error}") from None


def report(session: Session, answer: dict[str, Any]) -> None:
    """Print what was created, or would be: its next times, and what may not be meant."""
    for warning in answer.get("warnings") or ():
        say(f"Warning: {warning.get('detail')}")
    # A dry run says what it would do and puts the job inside.
    dry = "job" in answer
    job = answer["job"] if dry else answer
    if session.printer.form == "name":
        click.echo(job_name(job))
    elif session.printer.form != "table":
        session.printer.data(answer)
    else:
        click.echo(f"{job_name(job)} {'is valid; nothing was created' if dry else 'created'}")
        for moment in (answer.get("next_runs") or ())[:NEXT_SHOWN]:
            click.echo(f"  next {session.printer.moment(moment)}")
