"""The columns and lines in which jobs, runs and members are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from node.cli.output import Column, Printer
from node.cli.text import duration_between

Item = Mapping[str, Any]
DETAIL_CHARACTERS_MAX = 60


def text_of(key: str) -> Any:
    """Return a function that gives the text of an item's field, or None."""

    def cell(item: Item) -> str | None:
        value = item.get(key)
        return None if value is None or value == "" else str(value)

    return cell


def schedule_text(schedule: Item) -> str:
    """Return a schedule in one line: "every 10s", "0 3 * * * Europe/Berlin", "manual"."""
    if "cron" in schedule:
        return f"{schedule['cron']} {schedule.get('timezone', 'UTC')}"
    for kind, words in (("at", "at"), ("every", "every"), ("delay", "after end +")):
        if kind in schedule:
            return f"{words} {schedule[kind]}"
    return "manual"


def action_text(action: Item) -> str:
    """Return an action in one line."""
    kind = str(action.get("type", ""))
    if kind == "http":
        return f"{action.get('method', 'GET')} {action.get('url', '')}"
    if kind == "command":
        import shlex  # noqa: PLC0415

        return shlex.join(str(argument) for argument in action.get("argv", ()))
    return kind


def job_name(item: Item) -> str:
    """Return namespace/name of a job, or of the job that a run belongs to."""
    if item.get("name") is None:
        # The job of an old run may be gone.
        return str(item.get("job_id") or item.get("id") or "")
    return f"{item.get('namespace', '')}/{item['name']}"


def run_id(run: Item) -> str:
    return str(run.get("id", ""))


def run_result(run: Item) -> str | None:
    """Return how a run ended, or else how far it is."""
    return run.get("outcome") or run.get("state")


def _last_outcome(job: Item) -> str | None:
    last = job.get("last_run") or {}
    outcome: str | None = last.get("outcome")
    return outcome


def _history_result(item: Item) -> str | None:
    count = int(item.get("count") or 1)
    return f"{run_result(item)} ({count})" if count > 1 else run_result(item)


def _short_detail(item: Item) -> str | None:
    detail = str(item.get("detail") or "")
    if int(item.get("count") or 1) > 1:
        detail = f"until {item.get('last_scheduled_at')}"
    if len(detail) > DETAIL_CHARACTERS_MAX:
        detail = detail[: DETAIL_CHARACTERS_MAX - 1] + "…"
    return detail or None


def _taken(run: Item) -> str:
    return duration_between(run.get("started_at"), run.get("ended_at"))


JOBS = (
    Column("NAMESPACE", text_of("namespace")),
    Column("NAME", text_of("name")),
    Column("SCHEDULE", lambda job: schedule_text(job.get("schedule") or {})),
    Column("STATUS", text_of("status")),
    Column("NEXT", text_of("next_run_at"), is_time=True),
    Column("LAST", _last_outcome),
)
RUNS = (
    Column("SCHEDULED", text_of("scheduled_at"), is_time=True),
    Column("JOB", job_name),
    Column("RESULT", run_result),
    Column("TOOK", _taken),
    Column("MEMBER", text_of("member")),
    Column("ID", text_of("id")),
)
HISTORY = (
    Column("SCHEDULED", text_of("scheduled_at"), is_time=True),
    Column("RESULT", _history_result),
    Column("TOOK", _taken),
    Column("ATTEMPT", text_of("attempt")),
    Column("MEMBER", text_of("member")),
    Column("ID", text_of("id")),
    Column("DETAIL", _short_detail),
)


def labels_text(labels: Mapping[str, str] | None) -> str | None:
    return ",".join(f"{key}={value}" for key, value in (labels or {}).items()) or None


def job_lines(job: Item, printer: Printer) -> Iterator[tuple[str, str | None]]:
    """Yield what there is to say of one job."""
    yield "Name", job_name(job)
    yield "Id", str(job.get("id", ""))
    yield "Description", job.get("description")
    yield "Schedule", _schedule_line(job.get("schedule") or {})
    yield "Action", action_text(job.get("action") or {})
    yield "Status", job.get("status")
    yield "Next", printer.moment(job.get("next_run_at"))
    last = job.get("last_run") or {}
    yield "Last run", f"{last.get('outcome')} {last.get('id')}" if last else None
    for field in ("priority", "timeout", "overlap", "delivery", "output_limit"):
        value = job.get(field)
        yield field.replace("_", " ").capitalize(), None if value is None else str(value)
    for field in ("retry", "catch_up"):
        yield field.replace("_", " ").capitalize(), fields_text(job.get(field))
    yield "Placement", labels_text((job.get("placement") or {}).get("labels"))
    yield "Labels", labels_text(job.get("labels"))
    yield "Revision", str(job.get("revision", ""))
    yield "Created", printer.moment(job.get("created_at"))
    yield "Updated", printer.moment(job.get("updated_at"))


def _schedule_line(schedule: Item) -> str:
    shown = {"cron", "timezone", "at", "every", "delay", "manual"}
    rest = fields_text({key: value for key, value in schedule.items() if key not in shown})
    return schedule_text(schedule) + (f" ({rest})" if rest else "")


def fields_text(value: Item | None) -> str | None:
    """Return "max_attempts 4, backoff 5s" for an object, None for an empty one."""
    parts = []
    for key, field in (value or {}).items():
        parts.append(f"{key} {field if isinstance(field, str) else json.dumps(field)}")
    return ", ".join(parts) or None


def run_lines(run: Item, printer: Printer) -> Iterator[tuple[str, str | None]]:
    """Yield what there is to say of one run."""
    yield "Id", run_id(run)
    yield "Job", job_name(run)
    yield "Result", run_result(run)
    yield "Trigger", run.get("trigger")
    for label, field in (("Scheduled", "scheduled_at"), ("Started", "started_at")):
        yield label, printer.moment(run.get(field))
    yield "Ended", printer.moment(run.get("ended_at"))
    yield "Took", _taken(run)
    for field in ("attempt", "member", "exit_code", "fence", "detail"):
        value = run.get(field)
        label = field.replace("_", " ").capitalize()
        yield label, None if value is None or value == "" else str(value)
    for past in run.get("attempts") or ():
        words = (past.get("outcome"), past.get("member"), past.get("detail"))
        yield f"Attempt {past.get('number', '')}", " ".join(str(word) for word in words if word)
