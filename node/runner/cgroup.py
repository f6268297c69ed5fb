"""Contain each attempt in a cgroup of its own, where the system lets us.

A cgroup (version 2) is the one container that a process cannot leave by forking, changing
its session or clearing its environment, and `cgroup.kill` ends everything in it at once.
It needs a part of the cgroup tree that this user may write to: under systemd a unit with
`Delegate=yes`, in a container a writable /sys/fs/cgroup. Whether that is so is found out by
trying it with a real process. No controller is enabled, so the rule that inner cgroups hold
no processes does not bind us, and the node stays where it is.

    <our cgroup>/cronclave-<home>-<runner pid>/<number of the launch>
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from node.runner.limits import PROBE_S_MAX, READ_BYTES, SWEEP_S_MAX
from node.runner.sweep import LeftoversAlive

PREFIX = "cronclave"


class CgroupUnavailable(Exception):
    """Cgroups cannot be used here; the message says why."""


class Cgroup:
    """The cgroup of one attempt."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entry = f"{path}/cgroup.procs"
        # The last two parts of the path are unique on the machine, and unlike the whole of
        # it they look the same from inside a cgroup namespace.
        self._inside = "/" + "/".join(path.rsplit("/", 2)[1:]) + "/"
        os.mkdir(path, 0o700)

    def kill(self) -> None:
        """SIGKILL everything in it and below it (cgroup.kill, Linux 5.14)."""
        _write(f"{self.path}/cgroup.kill", b"1")

    def is_populated(self) -> bool:
        """Return whether a living process is in it or below it."""
        return b"populated 1" in _read(f"{self.path}/cgroup.events")

    def holds(self, pid: int) -> bool:
        """Return whether this process is in it or below it."""
        path = own_cgroup(_read(f"/proc/{pid}/cgroup").decode())
        return path is not None and self._inside in f"{path}/"

    def remove(self) -> None:
        """Remove it and what a command made below it; it must not be populated."""
        remove_tree(self.path)


class CgroupPool:
    """The parent of all attempts' cgroups of one runner.

    Raises:
        CgroupUnavailable: by the constructor, with the reason.
    """

    def __init__(self, home: str) -> None:
        try:
            parent = own_directory()
            self._end_earlier(parent, home)
            self.path = f"{parent}/{PREFIX}-{home}-{os.getpid()}"
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise CgroupUnavailable(f"{error.strerror}: {error.filename}") from error
        try:
            self._probe()
        except (OSError, CgroupUnavailable) as error:
            remove_tree(self.path)
            raise CgroupUnavailable(f"the trial in {self.path} failed: {error}") from error

    def create(self, name: str) -> Cgroup:
        """Make the cgroup of one attempt. Raises OSError if the system refuses."""
        return Cgroup(f"{self.path}/{name}")

    def kill(self) -> None:
        """SIGKILL everything in every attempt's cgroup."""
        _write(f"{self.path}/cgroup.kill", b"1")

    def close(self) -> None:
        """Remove all cgroups; nothing may be alive in them."""
        remove_tree(self.path)

    @staticmethod
    def _end_earlier(parent: str, home: str) -> None:
        """Kill and remove what runners of this home left when they were killed themselves."""
        for name in os.listdir(parent):
            if name.startswith(f"{PREFIX}-{home}-"):
                path = f"{parent}/{name}"
                _write(f"{path}/cgroup.kill", b"1")
                if not _is_empty_soon(path):
                    raise LeftoversAlive(f"Processes in {path} outlive SIGKILL.")
                remove_tree(path)

    def _probe(self) -> None:
        """Put a real process into a cgroup and kill it by that."""
        cgroup = self.create("probe")
        entered, entered_in = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _enter_and_wait(cgroup.entry, entered_in)
        os.close(entered_in)
        try:
            readable, _, _ = select.select([entered], [], [], PROBE_S_MAX)
            answer = os.read(entered, 1) if readable else b""
            if answer:
                cgroup.kill()
        finally:
            os.close(entered)
            if not _is_killed_soon(pid):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                answer = b""
        cgroup.remove()
        if not answer:
            raise CgroupUnavailable("a process could not enter its cgroup or be killed by it")


def _enter_and_wait(entry: str, entered: int) -> None:
    """Enter a cgroup, say so and wait for the end (in the trial's child)."""
    try:
        _write(entry, b"0")
        os.write(entered, b"y")
        signal.pause()
    finally:
        os._exit(1)


def _is_killed_soon(pid: int) -> bool:
    """Wait for the trial's child; return whether it died by SIGKILL within the bound."""
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], PROBE_S_MAX)[0]:
            return False
    finally:
        os.close(handle)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def _is_empty_soon(path: str) -> bool:
    """Wait until a killed cgroup is empty; return whether it was within the bound."""
    with open(f"{path}/cgroup.events", "rb", buffering=0) as events:
        # The kernel announces a change of the file as an exceptional condition.
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events.fileno(), READ_BYTES, 0):
            if not changes.poll(SWEEP_S_MAX * 1000):
                return False
    return True


def own_cgroup(membership: str) -> str | None:
    """Return the version 2 path in the text of a /proc/<pid>/cgroup, or None."""
    lines = membership.splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), None)


def mounted_at(mounts: str) -> tuple[str, str] | None:
    """Return (root, mount point) of cgroup version 2 in a mountinfo text (proc(5)), or None."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            fields = before.split(" ")
            return fields[3], fields[4]
    return None


def own_directory() -> str:
    """Return the directory of the cgroup this process is in.

    Raises:
        CgroupUnavailable: there is none of version 2, or it lies outside the mount.
    """
    path = own_cgroup(_read("/proc/self/cgroup").decode())
    mount = mounted_at(_read("/proc/self/mountinfo").decode())
    if path is None or mount is None:
        raise CgroupUnavailable("cgroup version 2 is not mounted")
    root, point = mount
    inside = path.removeprefix(root.rstrip("/"))
    if not path.startswith(root) or "/.." in inside:
        raise CgroupUnavailable(f"the cgroup {path} lies outside the mount of {root}")
    return (point + inside).rstrip("/")


def remove_tree(path: str) -> None:
    """Remove a cgroup and those below it; what is still populated stays."""
    try:
        os.rmdir(path)
    except OSError:
        for directory, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(path: str, content: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(content)
