"""The node's part of the runner's process: start it, watch it, clean up after it.

The process number stays the runner's until it is waited for, and its end is seen through a
pidfd, which any event loop can watch; no child watcher of a loop is involved.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from node.runner.limits import EXIT_LOCKED, EXIT_PROTOCOL, RECHECK_S, SWEEP_S_MAX
from node.runner.lock import LOCK_FILE, RunnerLock
from node.runner.sweep import LeftoversAlive, sweep
from storage.clock import Environment

# The interpreter of the runner may need the last ones; commands never see them.
RUNNER_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "PYTHONHOME"),
)
EXIT_MEANINGS = {
    EXIT_LOCKED: "another runner, or what one left behind, is still alive",
    EXIT_PROTOCOL: "it read something that was no message",
}


class RunnerError(Exception):
    """Something about the runner that the node must handle."""


class PreviousRunnerAlive(RunnerError):
    """The runner of an earlier life of this node has not finished killing."""


class RunnerProcess:
    """A runner's process and the data directory it works for.

    It starts with its own session, a cleared environment and one descriptor of the node's,
    the other end of `connection`.
    """

    def __init__(self, data_dir: Path, containment: str) -> None:
        lock_path = data_dir.absolute() / LOCK_FILE
        lock = RunnerLock(lock_path)
        self._home = lock.home
        lock.close()
        self.connection, theirs = socket.socketpair()
        variables = {name: os.environ[name] for name in RUNNER_VARIABLES if name in os.environ}
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-P", "-s", "-X", "utf8", "-m", "node.runner"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(lock_path), containment],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=variables | {"PYTHONPATH": str(root)},
                cwd="/",
            )

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL it; the kernel then kills the commands' main processes. Idempotent."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end; return its exit status, negative for a signal."""
        dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(handle, _resolve, dead)
        try:
            await dead
        finally:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)
        return self._process.wait()

    async def sweep(self, clock: Environment) -> str:
        """Kill what it left behind; return the sentence about what could not be killed."""
        try:
            await asyncio.to_thread(sweep, self._home, clock, SWEEP_S_MAX)
        except LeftoversAlive as error:
            return f" {error}"
        return ""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def death_sentence(status: int) -> str:
    """Say how a runner ended."""
    if status < 0:
        return f"The runner was ended by {signal.Signals(-status).name}."
    meaning = EXIT_MEANINGS.get(status)
    return f"The runner exited with status {status}" + (f": {meaning}." if meaning else ".")


async def wait_for_previous_runner(path: Path, timeout_s: float) -> None:
    """Wait until no runner holds the lock file at `path` (`<data directory>/runner.lock`).

    After it, everything that an earlier life of this node launched is dead, or will be when
    the next runner is ready. The file is made if there is none.

    Raises:
        PreviousRunnerAlive: the lock is still held after `timeout_s`.
    """
    lock = RunnerLock(path)
    try:
        async with asyncio.timeout(timeout_s):
            # Waiting in the kernel would take a thread that cannot be called back.
            while not lock.is_free():  # noqa: ASYNC110
                await asyncio.sleep(RECHECK_S)
    except TimeoutError as error:
        raise PreviousRunnerAlive(
            f"Process {lock.holder()}, the runner of an earlier start, still holds {path} after "
            f"{timeout_s} s: it cannot kill all of its commands."
        ) from error
    finally:
        lock.close()
