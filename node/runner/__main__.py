"""Start the runner: `python -m node.runner <socket descriptor> <lock file> <containment>`.

Only a node starts it, through `node.runner_client`. It leaves the node's session and
ignores the signals that a terminal or a service manager sends to everybody at once: the
node decides when it ends, by closing the connection. It ends everything it launched before
it ends itself, whatever the reason, and only then is its lock free.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from node.runner.cgroup import CgroupPool, CgroupUnavailable
from node.runner.descriptors import raise_descriptor_limit
from node.runner.kernel import become_subreaper
from node.runner.limits import (
    EXIT_LOCKED,
    EXIT_PROTOCOL,
    EXIT_USAGE,
    LOCK_WAIT_S,
    READ_BYTES,
    RECHECK_S,
    SWEEP_S_MAX,
)
from node.runner.lock import RunnerLock
from node.runner.processes import children_of, kill_below, signal_child
from node.runner.protocol import FrameError, Ready, encode_frame
from node.runner.supervisor import Supervisor
from node.runner.sweep import LeftoversAlive, sweep
from storage.clock import Environment, SystemEnvironment

USAGE = "usage: python -m node.runner <socket descriptor> <lock file> auto|processes"
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


class Arguments(NamedTuple):
    """The command line."""

    connection: int
    lock_path: Path
    may_use_cgroups: bool


def parse(arguments: list[str]) -> Arguments | None:
    """Return the parsed command line, or None if it is not one."""
    match arguments:
        case [descriptor, path, "auto" | "processes" as containment] if descriptor.isdecimal():
            return Arguments(int(descriptor), Path(path), containment == "auto")
    return None


def complain(sentence: str) -> None:
    """Write a sentence to the node's standard error."""
    sys.stderr.write(f"cronclave runner: {sentence}\n")
    sys.stderr.flush()


def prepare_process() -> int:
    """Make this process fit to run commands; return the descriptor that tells of deaths."""
    os.umask(0o077)
    os.chdir("/")
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for name in os.listdir("/proc/self/fd"):
        # Whatever the node let through must not reach a command. The list names its own
        # descriptor too, which is closed by now.
        if int(name) > sys.stderr.fileno() and os.path.exists(f"/proc/self/fd/{name}"):
            os.set_inheritable(int(name), False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    become_subreaper()
    deaths, deaths_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(deaths_in, warn_on_full_buffer=False)
    # Without a handler the signal would be dropped before it is written anywhere.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return deaths


def hold_lock(path: Path, clock: Environment) -> RunnerLock | None:
    """Return the held lock, or None if another runner keeps it beyond the wait."""
    lock = RunnerLock(path)
    until_s = clock.monotonic_s() + LOCK_WAIT_S
    while not lock.try_hold():
        if clock.monotonic_s() > until_s:
            complain(f"{path} is locked by process {lock.holder()}; two nodes on one directory?")
            return None
        select.select([], [], [], RECHECK_S)
    lock.write_holder()
    return lock


def open_cgroups(home: str, may_use: bool) -> tuple[CgroupPool | None, str]:
    """Return the cgroups, if they can be used, and the sentence that says why (not)."""
    if not may_use:
        return None, "Cgroups are switched off; orphans are found through /proc."
    try:
        pool = CgroupPool(home)
    except CgroupUnavailable as error:
        return None, f"No cgroups: {error}; orphans are found through /proc."
    return pool, f"Each attempt has a cgroup in {pool.path}."


def end_everything(deaths: int, cgroups: CgroupPool | None) -> None:
    """SIGKILL all that was launched, and return when no child is left.

    It goes on for as long as that takes, because the lock says that it is done. Only
    processes of other users, which cannot be killed, are left alone.
    """
    while True:
        if cgroups is not None:
            cgroups.kill()
        children = children_of(os.getpid())
        for pid in children:
            signal_child(pid, signal.SIGSTOP)
        for pid in children:
            kill_below(pid)
        refused = [pid for pid in children if not signal_child(pid, signal.SIGKILL)]
        if not _reap_all() or (children and refused == children):
            break
        select.select([deaths], [], [], RECHECK_S)
        _drain(deaths)
    if cgroups is not None:
        cgroups.close()


def _reap_all() -> bool:
    """Wait for all dead children; return whether any child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return


def serve(connection: socket.socket, home: str, clock: Environment, may_use_cgroups: bool) -> int:
    """Sweep, say that the runner is ready, serve, end everything; return the exit status."""
    deaths = prepare_process()
    cgroups = None
    try:
        cgroups, detail = open_cgroups(home, may_use_cgroups)
        swept = sweep(home, clock, SWEEP_S_MAX)
        descriptors = raise_descriptor_limit()
        ready = Ready(
            containment="processes" if cgroups is None else "cgroup",
            detail=detail,
            swept=swept,
            attempts_max=descriptors.attempts_max,
        )
        connection.sendall(encode_frame(ready))
        prefix = f"{home}.{clock.random.getrandbits(64):x}"
        # What exists by now lives for ever: forked children need not copy it when counting.
        gc.freeze()
        Supervisor(
            connection, deaths, clock, mark_prefix=prefix, cgroups=cgroups, descriptors=descriptors
        ).run()
    except FrameError as error:
        complain(f"{error} Everything launched is being killed.")
        return EXIT_PROTOCOL
    except LeftoversAlive as error:
        complain(f"An earlier runner left processes behind. {error}")
        return EXIT_LOCKED
    except BrokenPipeError:
        # The node was gone before it heard that we are ready.
        return 0
    finally:
        end_everything(deaths, cgroups)
    return 0


def main() -> int:
    """Run the runner; return its exit status."""
    arguments = parse(sys.argv[1:])
    if arguments is None:
        complain(USAGE)
        return EXIT_USAGE
    clock = SystemEnvironment()
    connection = socket.socket(fileno=arguments.connection)
    lock = hold_lock(arguments.lock_path, clock)
    if lock is None:
        return EXIT_LOCKED
    return serve(connection, lock.home, clock, arguments.may_use_cgroups)


if __name__ == "__main__":
    sys.exit(main())
