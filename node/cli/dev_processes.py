"""The processes of a development cluster: started, watched, and stopped by their ids.

One poll waits for everything there is to wait for: a signal to this process and the end of
each node. Nodes are in sessions of their own, so that Ctrl-C reaches this process alone,
which then stops them in an orderly way.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from storage.clock import Environment

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A node says goodbye to its peers and lets commits end; after that it is killed.
STOP_S_MAX = 40.0
LOG_LINES_SHOWN = 20
LOG_BYTES_READ = 65_536


class Processes:
    """The nodes that this process has started, and the signals it gets."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._poll = select.poll()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._names: dict[int, str] = {}
        self._wakeup: socket.socket | None = None
        # How often this process was asked to stop; the second time it does not wait.
        self.stops_asked = 0

    @contextmanager
    def receiving_signals(self) -> Iterator[None]:
        """Take the signals that stop a process as requests, while this is open."""
        wakeup, signalled = socket.socketpair()
        with wakeup, signalled:
            wakeup.setblocking(False)
            signalled.setblocking(False)
            self._wakeup = wakeup
            self._poll.register(wakeup, select.POLLIN)
            before = {number: signal.signal(number, _noted) for number in STOP_SIGNALS}
            descriptor = signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(descriptor)
                for number, handler in before.items():
                    signal.signal(number, handler)
                self._poll.unregister(wakeup)
                self._wakeup = None

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def start(self, name: str, argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        """Start a node; what it prints is added to its log."""
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(log, "ab", opener=_private) as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environ),
                start_new_session=True,
            )
        descriptor = os.pidfd_open(process.pid)
        self._running[name] = process
        self._names[descriptor] = name
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float | None) -> dict[str, int]:
        """Wait for a signal or an end; return the nodes that ended, with their status.

        A negative status is the number of the signal that ended the process.
        """
        timeout_ms = None if timeout_s is None else max(0, round(timeout_s * 1_000))
        ended = {}
        for descriptor, _ in self._poll.poll(timeout_ms):
            if self._wakeup is not None and descriptor == self._wakeup.fileno():
                received = self._wakeup.recv(64)
                self.stops_asked += sum(number in STOP_SIGNALS for number in received)
                continue
            name = self._names.pop(descriptor)
            self._poll.unregister(descriptor)
            os.close(descriptor)
            ended[name] = self._running.pop(name).wait()
        return ended

    def stop_all(self) -> Iterator[tuple[str, bool]]:
        """Stop all nodes; yield each with whether it ended by itself, as soon as it has."""
        asked, until_s = self.stops_asked, self._environment.monotonic_s() + STOP_S_MAX
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        while self._running:
            left_s = until_s - self._environment.monotonic_s()
            if left_s <= 0 or self.stops_asked > asked:
                break
            for name in self.wait(left_s):
                yield name, True
        for process in self._running.values():
            process.kill()
        while self._running:
            for name in self.wait(None):
                yield name, False


def _noted(number: int, frame: object) -> None:
    """Let the signal do nothing by itself; `set_wakeup_fd` has made it readable."""


def _private(path: str, flags: int) -> int:
    """Open a file that, if it is made, only this user may read; commands print into logs."""
    return os.open(path, flags, 0o600)


def log_tail(log: Path) -> str:
    """Return the last lines of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LOG_BYTES_READ))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return "(there is no log)"
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:]) or "(its log is empty)"


def ending(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
