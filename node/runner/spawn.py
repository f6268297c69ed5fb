"""Start one command: fork, prepare, execute, and tell what went wrong in words.

The runner forks by hand instead of using `subprocess` or `posix_spawn`. Both make the
parent wait until the program is loaded, and a working directory or program on a dead
network file system would stop the one process that must kill in time. Here only the child
touches what the job names; whether it succeeded arrives later through a pipe that closes by
itself when the program runs. Forking is safe because the runner has one thread, and cheap
because it is small. It also lets the child enter its cgroup and ask to die with the runner
before it runs anything of the job's.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, NoReturn

from node.runner.kernel import die_with_parent, open_memory_file
from node.runner.limits import (
    ARGUMENT_BYTES_MAX,
    ARGUMENTS_BYTES_MAX,
    DURATION_MS_MAX,
    OUTPUT_BYTES_MAX,
    STDIN_BYTES_MAX,
)
from node.runner.protocol import Launch

# What commands need to find programs, their home and their language, and nothing secret.
INHERITED_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The runner ignores these; a program would inherit that.
RESTORED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
)
EXIT_NOT_EXECUTED = 127

# What the child was doing when it failed; one byte on the pipe, then the error number.
_ISOLATE, _ENTER_DIRECTORY, _EXECUTE = b"i", b"d", b"x"


class Child(NamedTuple):
    """A forked child: its number, and the ends of its output and of its confirmation pipe."""

    pid: int
    output: int
    confirmation: int


def environment_for(launch: Launch, mark: dict[str, str]) -> dict[str, str]:
    """Return the whole environment of a command."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {"PATH": PATH_DEFAULT} | inherited | launch.env | mark


def refusal_of(launch: Launch, environment: dict[str, str]) -> str | None:
    """Return the sentence that says why a launch cannot even be tried, or None."""
    # In the kernel a variable is one string with an equals sign.
    variables = [f"{name}={value}" for name, value in environment.items()]
    texts = [*launch.argv, launch.cwd, *variables]
    sizes = [len(os.fsencode(text)) + 1 for text in texts]
    bad_names = [name for name in environment if not name or "=" in name]
    milliseconds = {"timeout_ms": launch.timeout_ms or 0, "grace_ms": launch.grace_ms}
    bad_times = [name for name, ms in milliseconds.items() if not 0 <= ms <= DURATION_MS_MAX]
    checks = (
        (not launch.argv or not launch.argv[0], "argv names no program."),
        (any("\0" in text for text in texts), "argv, cwd and env must not contain a zero byte."),
        (bool(bad_names), f"The name of an environment variable is not allowed: {bad_names[:1]}."),
        (
            max(sizes) > ARGUMENT_BYTES_MAX,
            f"An argument or variable exceeds {ARGUMENT_BYTES_MAX} B.",
        ),
        (sum(sizes) > ARGUMENTS_BYTES_MAX, f"argv and env exceed {ARGUMENTS_BYTES_MAX} bytes."),
        (len(launch.stdin) > STDIN_BYTES_MAX, f"stdin exceeds {STDIN_BYTES_MAX} bytes."),
        (not 0 <= launch.output_bytes_max <= OUTPUT_BYTES_MAX, "output_bytes_max is too large."),
        (bool(bad_times), f"{' and '.join(bad_times)} must be 0 to {DURATION_MS_MAX} ms."),
    )
    return next((sentence for failed, sentence in checks if failed), None)


def start_command(
    launch: Launch,
    environment: dict[str, str],
    cgroup_entry: str | None,
    descriptor_limits: tuple[int, int],
) -> Child:
    """Fork a child that becomes the command; return without waiting for that.

    `cgroup_entry` is the `cgroup.procs` file of the attempt's cgroup, `descriptor_limits`
    the soft and hard limit of open files that it gets. The confirmation pipe reads empty
    when the program runs, or the child's failure (see `failure_sentence`).

    Raises:
        OSError: no descriptors, memory or process numbers are left.
    """
    opened: list[int] = []
    try:
        output, output_in = os.pipe2(os.O_CLOEXEC)
        opened += (output, output_in)
        confirmation, confirmation_in = os.pipe2(os.O_CLOEXEC)
        opened += (confirmation, confirmation_in)
        os.set_blocking(output, False)
        os.set_blocking(confirmation, False)
        stdin = open_memory_file(launch.stdin) if launch.stdin else _open_null()
        opened.append(stdin)
        runner = os.getpid()
        pid = os.fork()
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    if pid == 0:
        isolate = partial(_isolate, runner, cgroup_entry, descriptor_limits)
        _become(launch, environment, isolate, stdin, output_in, confirmation_in)
    for descriptor in (output_in, confirmation_in, stdin):
        os.close(descriptor)
    return Child(pid, output, confirmation)


def _open_null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _become(
    launch: Launch,
    environment: dict[str, str],
    isolate: Callable[[], None],
    stdin: int,
    output: int,
    confirmation: int,
) -> NoReturn:
    """Turn this freshly forked child into the command; never return to the runner's code."""
    stage = _ISOLATE
    try:
        os.setsid()
        isolate()
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        stage = _ENTER_DIRECTORY
        os.chdir(launch.cwd)
        stage = _EXECUTE
        os.execvpe(launch.argv[0], launch.argv, environment)
    except OSError as error:
        os.write(confirmation, stage + b"%d" % (error.errno or 0))
    except BaseException as error:
        # Whatever it is, this process must not go on as a second runner.
        sys.stderr.write(f"cronclave runner: a child failed before its program: {error!r}\n")
        os.write(confirmation, stage + b"0")
    finally:
        os._exit(EXIT_NOT_EXECUTED)


def _isolate(runner: int, cgroup_entry: str | None, descriptor_limits: tuple[int, int]) -> None:
    die_with_parent()
    if os.getppid() != runner:
        # The runner died before the request was in force.
        os._exit(EXIT_NOT_EXECUTED)
    if cgroup_entry is not None:
        with open(cgroup_entry, "wb", buffering=0) as entry:
            entry.write(b"0")
    _leave_oom_protection()
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptor_limits)
    signal.set_wakeup_fd(-1)
    for number in RESTORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _leave_oom_protection() -> None:
    """Be an ordinary victim when memory runs out, though the service itself is protected.

    The adjustment is inherited, and a greedy command would have everything else killed.
    """
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as adjustment:
        if adjustment.read(1) == b"-":
            adjustment.write(b"0")


def failure_sentence(report: bytes, launch: Launch, path: str) -> str:
    """Say in words what a child reported through its confirmation pipe."""
    stage, number = report[:1], int(report[1:] or b"0")
    reason = os.strerror(number) if number else "an error inside the runner"
    if stage == _ENTER_DIRECTORY:
        return f"The working directory {launch.cwd!r} cannot be entered: {reason}."
    if stage != _EXECUTE:
        return f"The command could not be isolated: {reason}."
    return _execution_sentence(number, launch.argv[0], path, reason)


def _execution_sentence(number: int, program: str, path: str, reason: str) -> str:
    if number == errno.ENOENT and "/" not in program:
        return f"The program {program!r} was not found in PATH={path!r}."
    sentences = {
        errno.ENOENT: "does not exist, or the interpreter that its first line names does not",
        errno.EACCES: "may not be executed: a permission is missing, or it is a directory",
        errno.ENOEXEC: "is not of a format this machine executes (a script needs a '#!' line)",
        errno.E2BIG: "got arguments and environment longer than this machine accepts",
    }
    return f"The program {program!r} {sentences.get(number, f'cannot be executed: {reason}')}."
