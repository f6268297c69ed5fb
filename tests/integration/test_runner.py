"""The runner with real processes: what commands get, how they end, what they leave behind."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from node.runner.processes import children_by_parent, children_of
from node.runner_client import (
    CommandRequest,
    CommandResult,
    OutputTail,
    RunnerClient,
    RunnerDied,
    RunnerFull,
    Started,
)
from storage.clock import SystemEnvironment

CLOCK = SystemEnvironment()
# Far more than any wait here takes; reached only when something is broken.
DEADLINE_S = 120.0

Run = Callable[..., Awaitable[CommandResult]]


@pytest.fixture(autouse=True)
def patient_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine pause the runner: its silence is what other tests are about."""
    monkeypatch.setattr("node.runner_client.SILENCE_S_MAX", DEADLINE_S)


@pytest.fixture(params=["auto", "processes"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunnerClient]:
    """A runner with a long lease; once with cgroups, if there are any, and once without."""
    monkeypatch.setenv("NODE_SECRET", "must not be seen")
    runner = RunnerClient(CLOCK, containment=request.param)
    await runner.start(tmp_path)
    runner.extend_lease(CLOCK.monotonic_s() + 600)
    yield runner
    await runner.stop()


@pytest.fixture
def run(client: RunnerClient) -> Run:
    """Run `argv` with fields of a launch; attempt ids are given out in order."""
    numbers = iter(range(1, 1_000_000))

    async def run_one(*argv: str, **fields: object) -> CommandResult:
        launch = CommandRequest(attempt_id=f"run/{next(numbers)}", argv=list(argv), **fields)  # type: ignore[arg-type]
        async with asyncio.timeout(DEADLINE_S):
            return await client.run(launch)

    return run_one


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not merely waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


async def launch_and_read(
    client: RunnerClient, script: str, **fields: object
) -> tuple[asyncio.Task[CommandResult], list[str]]:
    """Launch a shell script that runs on; return its task and the first line it printed."""
    line: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    seen = bytearray()

    def on_output(tail: OutputTail) -> None:
        seen.extend(tail.data)
        if b"\n" in seen and not line.done():
            line.set_result(seen.partition(b"\n")[0].decode().split())

    launch = CommandRequest(attempt_id="live", argv=["sh", "-c", script], follow=True, **fields)  # type: ignore[arg-type]
    task = asyncio.create_task(client.run(launch, on_output=on_output))
    async with asyncio.timeout(DEADLINE_S):
        return task, await line


# --- what a command gets --------------------------------------------------------------


async def test_exit_status_output_and_times_are_reported(run: Run) -> None:
    """stdout and stderr come as one stream in the order of arrival."""
    before_ms = CLOCK.wall_ms()
    end = await run("sh", "-c", "echo out; echo err >&2; echo out; exit 3")
    assert (end.cause, end.exit_code, end.signal) == ("exited", 3, None)
    assert end.output == b"out\nerr\nout\n"
    assert end.output_total_bytes == 12
    assert end.started_ms is not None
    assert before_ms <= end.started_ms
    assert end.duration_ms >= 0


async def test_a_command_that_is_killed_by_others_reports_the_signal(run: Run) -> None:
    """That is an end by itself, as far as the scheduler is concerned."""
    end = await run("sh", "-c", "kill -SEGV $$")
    assert (end.cause, end.exit_code, end.signal) == ("exited", None, signal.SIGSEGV)
    assert "SIGSEGV, which the runner did not send" in end.detail


async def test_stdin_is_given_whole_and_is_empty_without(run: Run) -> None:
    """Input of any bytes and size up to the limit; never the node's own."""
    given = bytes(range(256)) * 2000
    assert (await run("sha256sum", "-b", stdin=given)).output[:64] == (
        await run("sh", "-c", "cat | sha256sum -b", stdin=given)
    ).output[:64]
    assert (await run("wc", "-c", stdin=given)).output.split() == [b"512000"]
    assert (await run("wc", "-c")).output.split() == [b"0"]


async def test_the_environment_is_what_was_given_and_little_more(run: Run) -> None:
    """Nothing of the node's environment leaks."""
    output = (await run("env", env={"JOB": "nightly", "PATH": "/usr/bin:/bin"})).output.decode()
    variables = dict(line.split("=", 1) for line in output.splitlines())
    assert variables["JOB"] == "nightly"
    assert variables["PATH"] == "/usr/bin:/bin"
    assert "NODE_SECRET" not in variables
    assert not any(name.startswith("PYTHON") for name in variables)


async def test_a_command_starts_clean(run: Run, tmp_path: Path) -> None:
    """Own session, three descriptors, umask 077, default signals, its working directory."""
    script = "umask; ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status; pwd"
    lines = (await run("sh", "-c", script, cwd=str(tmp_path))).output.decode().split()
    # The fourth descriptor is the directory that ls reads.
    assert (lines[:2], lines[6]) == (["0077", "4"], str(tmp_path))
    # Signals 32 and 33 belong to the C library: a parent that used its posix_spawn, as make
    # does, leaves one of them ignored, and no program can change that.
    reserved = 1 << 31 | 1 << 32
    assert [int(mask, 16) & ~reserved for mask in (lines[3], lines[5])] == [0, 0]
    session = await run("sh", "-c", 'cut -d" " -f6 /proc/$$/stat; echo $$')
    assert len(set(session.output.split())) == 1


@pytest.mark.parametrize(
    ("argv", "fields", "sentence"),
    [
        (["no-such-program"], {}, "'no-such-program' was not found in PATH="),
        (["/no/such/program"], {}, "'/no/such/program' does not exist"),
        (["/etc/passwd"], {}, "'/etc/passwd' may not be executed"),
        (["/tmp"], {}, "'/tmp' may not be executed"),
        (["true"], {"cwd": "/no/such/place"}, "'/no/such/place' cannot be entered: No such file"),
        (["true"], {"cwd": "/etc/passwd"}, "cannot be entered: Not a directory"),
        (["a\0b"], {}, "zero byte"),
        ([""], {}, "names no program"),
        (["\ud800"], {}, "no msgpack form"),
        (["true"], {"stdin": b"x" * 5_000_000}, "longer than"),
    ],
)
async def test_what_cannot_start_says_why(
    run: Run, argv: list[str], fields: dict[str, object], sentence: str
) -> None:
    """A failed start is a result with a clear sentence, and harms nothing else."""
    end = await run(*argv, **fields)
    assert end.cause == "spawn_failed"
    assert sentence in end.detail
    assert (end.exit_code, end.signal, end.started_ms) == (None, None, None)
    assert (await run("true")).exit_code == 0


async def test_a_file_of_no_known_format_cannot_start(run: Run, tmp_path: Path) -> None:
    """No shell steps in where argv names none."""
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    script.chmod(0o700)
    assert "a script needs a '#!' line" in (await run(str(script))).detail


# --- output ---------------------------------------------------------------------------


async def test_long_output_keeps_its_ends(run: Run) -> None:
    """What is kept never exceeds the limit; what is missing is counted."""
    end = await run("seq", "1", "200000", output_bytes_max=1000)
    assert end.output_total_bytes == 1_288_895
    assert len(end.output) <= 1000
    assert end.output.startswith(b"1\n2\n3\n")
    assert end.output.endswith(b"199999\n200000\n")
    assert b" bytes cut ...]\n" in end.output


async def test_a_chatty_command_neither_blocks_others_nor_grows(
    run: Run, client: RunnerClient
) -> None:
    """Another command starts and ends while one writes as fast as it can."""
    task, _ = await launch_and_read(client, "exec yes")
    assert (await run("echo", "through")).output == b"through\n"
    client.kill("live", "Enough.", grace_ms=0)
    end = await asyncio.wait_for(task, DEADLINE_S)
    assert end.output_total_bytes > len(end.output)
    assert (end.cause, end.signal) == ("cancelled", signal.SIGKILL)


async def test_a_command_that_closes_its_output_lives_on(run: Run) -> None:
    """The end of output is not the end of the attempt."""
    end = await run("sh", "-c", "echo bye; exec >&- 2>&-; read line; exit 4", stdin=b"x\n")
    assert (end.exit_code, end.output) == (4, b"bye\n")


async def test_output_can_be_followed(client: RunnerClient) -> None:
    """It is passed on while the command runs."""
    task, line = await launch_and_read(client, "echo working hard; exec sleep 1000")
    assert line == ["working", "hard"]
    client.kill("live", "Seen enough.")
    assert (await asyncio.wait_for(task, DEADLINE_S)).output == b"working hard\n"


# --- how it ends ----------------------------------------------------------------------


async def test_a_timeout_terminates_the_whole_group(run: Run) -> None:
    """SIGTERM reaches children too, and what they still say is kept."""
    script = "trap 'echo bye; exit 7' TERM; echo ready; sleep 1000 & wait"
    timeout_ms = 1_000
    while True:
        end = await run("sh", "-c", script, timeout_ms=timeout_ms, grace_ms=600_000)
        assert end.cause == "timeout"
        if end.output.startswith(b"ready\n"):
            break
        timeout_ms *= 2  # The shell had not come to its trap; on a slow machine it takes longer.
    assert (end.exit_code, end.output) == (7, b"ready\nbye\n")


async def test_who_ignores_sigterm_is_killed_after_the_grace(client: RunnerClient) -> None:
    """The reason that was given is what is reported."""
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    task, _ = await launch_and_read(client, script, grace_ms=100)
    client.kill("live", "Alice asked for it.")
    end = await asyncio.wait_for(task, DEADLINE_S)
    assert (end.cause, end.signal) == ("cancelled", signal.SIGKILL)
    assert end.detail.startswith("Alice asked for it.")


async def test_a_second_kill_shortens_the_grace(client: RunnerClient) -> None:
    """Forcing an end does not wait for the patience of the first attempt."""
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    task, _ = await launch_and_read(client, script, grace_ms=3_600_000)
    client.kill("live", "First.")
    client.kill("live", "Second.", grace_ms=0)
    assert (await asyncio.wait_for(task, DEADLINE_S)).signal == signal.SIGKILL


async def test_killing_what_is_not_there_is_no_error(run: Run, client: RunnerClient) -> None:
    """It may have ended a moment ago."""
    client.kill("never heard of", "Just so.")
    assert (await run("true")).exit_code == 0


async def test_a_caller_that_goes_away_takes_its_command_along(client: RunnerClient) -> None:
    """A cancelled task leaves nothing running."""
    task, pid = await launch_and_read(client, "echo $$; exec sleep 1000")
    handle = os.pidfd_open(int(pid[0]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE_S)
    dead = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, dead.set)
    async with asyncio.timeout(DEADLINE_S):
        await dead.wait()
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & echo $!",
        "setsid sh -c 'echo $$; exec sleep 1000' & wait",
        "(setsid sh -c 'echo $$; sleep 1000; :' &)",
        "(env -i setsid sh -c 'echo $$; sleep 1000; :' &)",
        "(trap '' TERM HUP; setsid sh -c '(sleep 1000 & sleep 1000 &) ; echo $$; sleep 1000' &)",
    ],
    ids=["background", "session", "daemon", "without environment", "family"],
)
async def test_what_a_command_leaves_behind_dies_with_it(
    run: Run, tmp_path: Path, script: str
) -> None:
    """It ends with its main process, though others keep its output open."""
    through_pipe = f"mkfifo pipe; {{ {script}; }} >pipe & read line <pipe; echo $line"
    end = await run("sh", "-c", through_pipe, cwd=str(tmp_path))
    assert (end.cause, end.exit_code) == ("exited", 0)
    assert not is_alive(int(end.output))


@pytest.mark.parametrize("environment", ["", "env -i"])
async def test_a_kill_reaches_who_left_the_group(client: RunnerClient, environment: str) -> None:
    """Also while the main process still lives."""
    script = f"({environment} setsid sh -c 'echo $$; sleep 1000; :' &); sleep 1000"
    task, pid = await launch_and_read(client, script)
    assert is_alive(int(pid[0]))
    client.kill("live", "Enough.", grace_ms=0)
    await asyncio.wait_for(task, DEADLINE_S)
    assert not is_alive(int(pid[0]))


async def test_what_is_killed_sees_nothing_of_it(client: RunnerClient) -> None:
    """A script must not go on to its next line because its child was killed before it."""
    script = "sh -c 'setsid sh -c \"echo ready; sleep 1000\"; echo child gone'; echo going on"
    for _ in range(20):
        task, line = await launch_and_read(client, script)
        assert line == ["ready"]
        client.kill("live", "Enough.", grace_ms=0)
        end = await asyncio.wait_for(task, DEADLINE_S)
        assert (end.signal, end.output) == (signal.SIGKILL, b"ready\n")


async def test_the_end_of_one_attempt_spares_the_orphans_of_another(
    run: Run, client: RunnerClient
) -> None:
    """A daemon that a running command started is part of it."""
    task, pid = await launch_and_read(
        client, "(setsid sh -c 'echo $$; sleep 1000; :' &); sleep 1000"
    )
    for _ in range(5):
        await run("sh", "-c", "(setsid sleep 1000 &)")
    assert is_alive(int(pid[0]))
    client.kill("live", "Enough.")
    await asyncio.wait_for(task, DEADLINE_S)
    assert not is_alive(int(pid[0]))


# --- many -----------------------------------------------------------------------------


async def test_many_at_once_all_end_and_leave_no_descriptor(run: Run, client: RunnerClient) -> None:
    """A hundred ends of every kind cost the runner nothing that lasts."""

    def descriptors() -> set[str]:
        return set(os.listdir(f"/proc/{client.pid}/fd"))

    await run("true")
    before = descriptors()
    good = [run("true") for _ in range(100)]
    bad = [run("no-such-program") for _ in range(10)]
    daemons = [run("sh", "-c", "sleep 1000 &") for _ in range(10)]
    late = [run("sleep", "1000", timeout_ms=50) for _ in range(10)]
    ends = await asyncio.gather(*good, *bad, *daemons, *late)
    causes = [end.cause for end in ends]
    assert causes == ["exited"] * 100 + ["spawn_failed"] * 10 + ["exited"] * 10 + ["timeout"] * 10
    assert client.in_flight == 0
    assert client.pid is not None
    assert children_of(client.pid) == []
    async with asyncio.timeout(DEADLINE_S):
        while descriptors() != before:  # noqa: ASYNC110 - it may be looking at something
            await asyncio.sleep(0.01)


async def test_beyond_the_maximum_nothing_is_taken(
    client: RunnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told at once, by name."""
    monkeypatch.setattr(client, "attempts_max", 1)
    task, _ = await launch_and_read(client, "echo; exec sleep 1000")
    with pytest.raises(RunnerFull):
        await client.run(CommandRequest(attempt_id="other", argv=["true"]))
    with pytest.raises(ValueError, match="in flight already"):
        await client.run(CommandRequest(attempt_id="live", argv=["true"]))
    client.kill("live", "Enough.")
    await asyncio.wait_for(task, DEADLINE_S)


async def test_the_runner_takes_more_files_than_it_hands_on(tmp_path: Path) -> None:
    """A low soft limit bounds neither the slots nor, changed, what commands get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = RunnerClient(CLOCK)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        await client.start(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        client.extend_lease(CLOCK.monotonic_s() + 60)
        assert client.attempts_max > 200
        end = await client.run(CommandRequest(attempt_id="a", argv=["sh", "-c", "ulimit -n"]))
        assert end.output == b"200\n"
        sleeps = [
            CommandRequest(attempt_id=f"b{number}", argv=["sleep", "1000"]) for number in range(250)
        ]
        started: asyncio.Queue[Started] = asyncio.Queue()
        running = [asyncio.create_task(client.run(one, started.put_nowait)) for one in sleeps]
        async with asyncio.timeout(DEADLINE_S):
            for _ in sleeps:
                await started.get()
        for sleep in sleeps:
            client.kill(sleep.attempt_id, "Enough.", grace_ms=0)
        async with asyncio.timeout(DEADLINE_S):
            ends = await asyncio.gather(*running)
        assert {end.cause for end in ends} == {"cancelled"}
    finally:
        await client.stop()


async def test_both_ways_to_list_children_agree(client: RunnerClient) -> None:
    """Kernels without lists of children are read process by process."""
    task, _ = await launch_and_read(client, "echo; exec sleep 1000")
    assert client.pid is not None
    assert sorted(children_by_parent(client.pid)) == sorted(children_of(client.pid)) != []
    client.kill("live", "Enough.")
    await asyncio.wait_for(task, DEADLINE_S)


async def test_stopping_ends_everything_and_fails_what_is_pending(client: RunnerClient) -> None:
    """It can be repeated, and nothing can be run after it."""
    task, pid = await launch_and_read(client, "echo $$; exec sleep 1000")
    await client.stop()
    await client.stop()
    with pytest.raises(RunnerDied):
        await asyncio.wait_for(task, DEADLINE_S)
    assert not is_alive(int(pid[0]))
    with pytest.raises(RunnerDied):
        await client.run(CommandRequest(attempt_id="late", argv=["true"]))


def test_it_works_on_uvloop(tmp_path: Path) -> None:
    """The node's own loop; the other tests use the standard one."""

    async def scenario() -> tuple[list[Started], CommandResult]:
        started: list[Started] = []
        client = RunnerClient(CLOCK)
        await client.start(tmp_path)
        client.extend_lease(CLOCK.monotonic_s() + 60)
        try:
            launch = CommandRequest(attempt_id="a", argv=["cat"], stdin=b"hello")
            return started, await client.run(launch, started.append)
        finally:
            await client.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        started, end = loop.run(scenario())
    assert end.output == b"hello"
    assert [(one.attempt_id, one.started_ms) for one in started] == [("a", end.started_ms)]
