"""The action that runs a program, through the node's runner process.

`{"type": "command", "argv": ["/usr/bin/make", "report"], "env": {"DAY": "1"},
"cwd": "/srv", "stdin": "..."}`. There is no shell unless `argv` names one, and the
environment is what the action gives plus the attempt's identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from api.faults import Fault, Rejected, shown
from node.executors.fields import check_fields, text, texts_by_name
from node.executors.protocol import Attempt, AttemptResult, Services
from node.runner_client import CommandRequest, CommandResult, RunnerDied

ARGUMENTS_MAX = 256
ARGUMENT_CHARS_MAX = 32_768
VARIABLES_MAX = 256
STDIN_CHARS_MAX = 32_768
PATH_CHARS_MAX = 4_096

_check_argument = text(ARGUMENT_CHARS_MAX)


def _argv(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise Rejected(
            "wrong_type", f'A list such as ["/bin/echo", "hello"] is expected, not {shown(value)}.'
        )
    if len(value) > ARGUMENTS_MAX:
        raise Rejected("too_many", f"At most {ARGUMENTS_MAX} arguments are allowed.")
    for argument in value:
        _check_argument(argument)
    if not value[0]:
        raise Rejected("invalid_value", "The first argument names the program; it is empty.")
    return value


def _variables(value: object) -> object:
    checked = texts_by_name(VARIABLES_MAX, ARGUMENT_CHARS_MAX)(value)
    assert isinstance(checked, dict)
    for name in checked:
        if not name or "=" in name:
            raise Rejected("invalid_name", f"{shown(name)} cannot name a variable.")
        if name.startswith("CRONCLAVE_"):
            raise Rejected("reserved_name", f"{shown(name)} is set by Cronclave itself.")
    return checked


def _directory(value: object) -> object:
    path = text(PATH_CHARS_MAX)(value)
    if not str(path).startswith("/"):
        raise Rejected("invalid_path", f"{shown(value)} is not an absolute path.")
    return path


class CommandExecutor:
    """Launches programs outside the node's own process."""

    def __init__(self, services: Services) -> None:
        self._runner = services.runner

    async def start(self) -> None:
        """The runner was started before everything else."""

    async def stop(self) -> None:
        """The runner is stopped after everything else."""

    def validate(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        optional = {"env": _variables, "cwd": _directory, "stdin": text(STDIN_CHARS_MAX)}
        return check_fields(action, pointer, {"argv": _argv}, optional).faults

    async def run(self, attempt: Attempt) -> AttemptResult:
        action = attempt.action
        request = CommandRequest(
            attempt_id=attempt.key,
            argv=list(action["argv"]),
            env={**action.get("env", {}), **attempt.identity},
            cwd=action.get("cwd", "/"),
            stdin=str(action.get("stdin", "")).encode(),
            timeout_ms=attempt.timeout_ms,
            output_bytes_max=attempt.output_bytes_max,
            must_stop_with_lease=attempt.must_stop_with_lease,
        )
        running = asyncio.ensure_future(
            self._runner.run(request, on_started=lambda _: attempt.on_started())
        )
        try:
            await asyncio.wait((running, attempt.stop), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                self._stop(attempt)
            return _result(await running)
        except RunnerDied as error:
            return AttemptResult(outcome="lost", detail=str(error))

    def _stop(self, attempt: Attempt) -> None:
        match attempt.stop.result():
            case "cancelled":
                self._runner.kill(attempt.key, "It was cancelled.", cause="cancelled")
            case "drain":
                self._runner.kill(attempt.key, "The member is stopping.", cause="killed")
            case "lease":
                self._runner.kill(attempt.key, "The member gives it back.", cause="killed")
            case "timeout":
                pass  # The runner keeps the time itself, so this end is on its way.


def _result(end: CommandResult) -> AttemptResult:
    """Translate the runner's account of an end."""
    outcome: Any = "failed"
    detail = end.detail
    if end.cause == "lease":
        outcome = "lost"
    elif end.cause == "timeout":
        outcome = "timed_out"
    elif end.cause == "cancelled":
        outcome = "cancelled"
    elif end.cause == "exited" and end.exit_code == 0:
        outcome = "succeeded"
    return AttemptResult(
        outcome=outcome,
        exit_code=end.exit_code if end.signal is None else 128 + end.signal,
        detail=detail,
        output=end.output,
        output_bytes=end.output_total_bytes,
        unstarted=end.cause == "lease" and end.started_ms is None,
    )
