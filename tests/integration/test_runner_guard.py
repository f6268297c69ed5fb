"""The runner as guard: what it does when the node is stopped, killed, mad or late."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.runner.limits import EXIT_PROTOCOL
from node.runner.lock import LOCK_FILE
from node.runner.parent import RunnerProcess
from node.runner.processes import children_of
from node.runner_client import (
    CommandRequest,
    CommandResult,
    OutputTail,
    PreviousRunnerAlive,
    RunnerClient,
    RunnerDied,
    RunnerStartFailed,
    wait_for_previous_runner,
)
from storage.clock import SystemEnvironment

CLOCK = SystemEnvironment()
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0

# A node that runs two commands, `bound` to its lease and `free` of it, each with a daemon
# that left its session; it prints who runs and how they end. Its lease becomes short when both
# daemons run, however long that takes, and before it says so.
NODE = """
import asyncio, pathlib, sys
import node.runner_client
from node.runner_client import CommandRequest, RunnerClient
from storage.clock import SystemEnvironment

SCRIPT = "(setsid sh -c 'echo $$; sleep 1000; :' &); sleep 1000"

node.runner_client.SILENCE_S_MAX = 600  # a machine that pauses the runner is no matter here
clock = SystemEnvironment()
daemons = []

def daemon(client, name, tail):
    daemons.append(name)
    if len(daemons) == 2:
        client.extend_lease(clock.monotonic_s() + float(sys.argv[3]))
    print(name, "daemon", tail.data.decode().strip(), flush=True)

async def run(client, name):
    launch = CommandRequest(attempt_id=name, argv=["sh", "-c", SCRIPT], follow=True,
                            grace_ms=100, must_stop_with_lease=name == "bound")
    end = await client.run(
        launch,
        lambda started: print(name, "main", started.pid, flush=True),
        lambda tail: daemon(client, name, tail),
    )
    print(name, "ended", end.cause, flush=True)

async def main():
    client = RunnerClient(clock, containment=sys.argv[2])
    await client.start(pathlib.Path(sys.argv[1]))
    print("runner is", client.pid, flush=True)
    client.extend_lease(clock.monotonic_s() + 600)
    await asyncio.gather(run(client, "bound"), run(client, "free"))

asyncio.run(main())
"""


class Node:
    """A process that plays a node, and the numbers of what belongs to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pids: dict[str, int] = {}

    async def read_line(self) -> list[str]:
        """Return the words of its next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self.process.stdout.readline()).decode().split()

    async def read_pids(self) -> None:
        """Wait until both commands and their daemons run."""
        while len(self.pids) < 5:
            name, what, pid = await self.read_line()
            self.pids[f"{name} {what}"] = int(pid)


@contextlib.asynccontextmanager
async def playing_node(
    data_dir: Path, lease_s: float, containment: str = "processes"
) -> AsyncIterator[Node]:
    """Start a node and wait until its commands run; kill it in the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NODE, str(data_dir), containment, str(lease_s)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    node = Node(process)
    try:
        await node.read_pids()
        yield node
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        await wait_for_previous_runner(data_dir / LOCK_FILE, DEADLINE_S)


def state_of(pid: int) -> str | None:
    """Return the letter of a process's state; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not merely waiting to be reaped."""
    return state_of(pid) not in {None, "Z", "X"}


def resident_kib(pid: int) -> int:
    """Return how much memory a process occupies."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def until_dead(*pids: int) -> None:
    """Wait for the deaths of processes."""
    async with asyncio.timeout(DEADLINE_S):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                dead = asyncio.Event()
                asyncio.get_running_loop().add_reader(handle, dead.set)
                await dead.wait()
                asyncio.get_running_loop().remove_reader(handle)
                os.close(handle)


async def until_stopped(pid: int) -> None:
    """Wait until a process that was sent SIGSTOP stands still."""
    async with asyncio.timeout(DEADLINE_S):
        while state_of(pid) != "T":  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)


class Clients:
    """The clients of one test, all of which are stopped after it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._all: list[RunnerClient] = []

    async def start(self, *, lease_s: float | None = 600, **options: object) -> RunnerClient:
        """Return a client with a ready runner and, unless None, a lease."""
        client = RunnerClient(CLOCK, **options)  # type: ignore[arg-type]
        self._all.append(client)
        await client.start(self._data_dir)
        if lease_s is not None:
            client.extend_lease(CLOCK.monotonic_s() + lease_s)
        return client

    async def stop(self) -> None:
        """Stop all."""
        for client in self._all:
            await client.stop()


@pytest.fixture(autouse=True)
def patient_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine pause the runner: its silence is what one test alone is about."""
    monkeypatch.setattr("node.runner_client.SILENCE_S_MAX", DEADLINE_S)


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    """Clients on the test's own data directory."""
    created = Clients(tmp_path)
    yield created
    await created.stop()


async def launch_daemon(
    client: RunnerClient,
) -> tuple[asyncio.Task[CommandResult], tuple[int, int]]:
    """Run a command with a daemon; return its task and the numbers of both processes."""
    pids: list[int] = []
    running = asyncio.Event()

    def note(tail: OutputTail) -> None:
        pids.extend(map(int, tail.data.split()))
        if len(pids) == 2:
            running.set()

    script = "echo $$; (setsid sh -c 'echo $$; sleep 1000; :' &); sleep 1000"
    launch = CommandRequest(attempt_id="live", argv=["sh", "-c", script], follow=True)
    task = asyncio.create_task(client.run(launch, on_output=note))
    async with asyncio.timeout(DEADLINE_S):
        await running.wait()
    return task, (pids[0], pids[1])


# --- the node -------------------------------------------------------------------------


@pytest.mark.parametrize("containment", ["auto", "processes"])
async def test_a_stopped_node_loses_what_its_lease_must_cover(
    tmp_path: Path, containment: str
) -> None:
    """SIGSTOP of the node stops neither the lease nor its guard; the rest runs on."""
    async with playing_node(tmp_path, 2.5, containment) as node:
        node.process.send_signal(signal.SIGSTOP)
        await until_dead(node.pids["bound main"], node.pids["bound daemon"])
        await until_stopped(node.process.pid)
        assert is_alive(node.pids["free main"])
        assert is_alive(node.pids["free daemon"])
        node.process.send_signal(signal.SIGCONT)
        assert await node.read_line() == ["bound", "ended", "lease"]


@pytest.mark.parametrize("containment", ["auto", "processes"])
async def test_a_killed_node_takes_everything_along(tmp_path: Path, containment: str) -> None:
    """Nothing of it is alive when the lock is free, and not before."""
    lock = tmp_path / LOCK_FILE
    async with playing_node(tmp_path, 600, containment) as node:
        with pytest.raises(PreviousRunnerAlive, match=str(node.pids["runner is"])):
            await wait_for_previous_runner(lock, 0.1)
        node.process.kill()
        await wait_for_previous_runner(lock, DEADLINE_S)
        assert [
            name for name, pid in node.pids.items() if "runner" not in name and is_alive(pid)
        ] == []
        await until_dead(node.pids["runner is"])


async def test_a_stopped_node_that_is_killed_takes_everything_along(tmp_path: Path) -> None:
    """The connection closes whatever state the node was in."""
    async with playing_node(tmp_path, 600) as node:
        node.process.send_signal(signal.SIGSTOP)
        node.process.kill()
        await until_dead(*node.pids.values())


async def test_the_runner_ignores_what_is_sent_to_everybody(clients: Clients) -> None:
    """A service manager's SIGTERM or a terminal's SIGINT is for the node to decide about."""
    client = await clients.start()
    assert client.pid is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(client.pid, number)
    end = await client.run(CommandRequest(attempt_id="a", argv=["true"]))
    assert end.exit_code == 0
    assert os.getsid(client.pid) == client.pid


# --- the lease ------------------------------------------------------------------------


async def test_without_a_lease_nothing_starts(clients: Clients) -> None:
    """Also what may outlive a lease needs one to start."""
    client = await clients.start(lease_s=None)
    for bound in (True, False):
        launch = CommandRequest(attempt_id="a", argv=["true"], must_stop_with_lease=bound)
        end = await client.run(launch)
        assert (end.cause, end.started_ms) == ("lease", None)


async def test_giving_up_the_lease_ends_what_it_covered(clients: Clients) -> None:
    """The last word about the lease counts, also when it is an earlier instant."""
    client = await clients.start()
    task, pids = await launch_daemon(client)
    client.extend_lease(CLOCK.monotonic_s())
    end = await asyncio.wait_for(task, DEADLINE_S)
    assert (end.cause, end.signal) == ("lease", signal.SIGKILL)
    assert not any(map(is_alive, pids))


async def test_the_runner_confirms_the_lease_that_it_guards(clients: Clients) -> None:
    """The node may rely on no more than what was confirmed."""
    client = await clients.start()
    until_s = CLOCK.monotonic_s() + 500
    client.extend_lease(until_s)
    await client.run(CommandRequest(attempt_id="a", argv=["true"]))
    assert client.lease_confirmed_until_s == until_s


@pytest.mark.parametrize("ahead_s", [1e9, float("inf"), float("nan")])
async def test_a_lease_of_another_clock_is_refused_loudly(clients: Clients, ahead_s: float) -> None:
    """An instant that cannot be a lease's end would switch the guard off."""
    deaths: list[RunnerDied] = []
    client = await clients.start(on_death=deaths.append)
    task, pids = await launch_daemon(client)
    client.extend_lease(CLOCK.monotonic_s() + ahead_s)
    with pytest.raises(RunnerDied, match="no message"):
        await asyncio.wait_for(task, DEADLINE_S)
    await client.wait_closed()
    assert len(deaths) == 1
    assert not any(map(is_alive, pids))


# --- the runner -----------------------------------------------------------------------


@pytest.mark.parametrize("containment", ["auto", "processes"])
async def test_a_killed_runner_is_noticed_and_swept_up(clients: Clients, containment: str) -> None:
    """When the node is told, nothing of it is alive; what was pending fails by name."""
    deaths: list[RunnerDied] = []
    client = await clients.start(on_death=deaths.append, containment=containment)
    task, pids = await launch_daemon(client)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(RunnerDied, match="SIGKILL"):
        await asyncio.wait_for(task, DEADLINE_S)
    assert not any(map(is_alive, pids))
    await client.wait_closed()
    assert len(deaths) == 1
    with pytest.raises(RunnerDied):
        client.extend_lease(CLOCK.monotonic_s() + 1)
    await clients.start(containment=containment)


async def test_a_silent_runner_is_killed_with_its_commands(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that does not answer guards nothing."""
    client = await clients.start(containment="processes")
    task, pids = await launch_daemon(client)
    monkeypatch.setattr("node.runner_client.SILENCE_S_MAX", 0.1)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    client.extend_lease(CLOCK.monotonic_s() + 60)
    with pytest.raises(RunnerDied, match="unconfirmed"):
        await asyncio.wait_for(task, DEADLINE_S)
    assert not any(map(is_alive, pids))


async def test_the_next_runner_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    """Node and runner killed together leave a daemon, until somebody starts here again."""
    async with playing_node(tmp_path, 600) as node:
        os.kill(node.process.pid, signal.SIGSTOP)
        os.kill(node.pids["runner is"], signal.SIGKILL)
        node.process.kill()
        await until_dead(node.pids["bound main"], node.pids["free main"])
        assert is_alive(node.pids["free daemon"])
        client = RunnerClient(CLOCK)
        ready = await client.start(tmp_path)
        await client.stop()
        # Each daemon is a shell and its sleep, and the main shells had children as well.
        assert ready.swept >= 4
        assert not is_alive(node.pids["free daemon"])
        assert not is_alive(node.pids["bound daemon"])


async def test_a_damaged_frame_ends_the_runner_and_all_it_ran(tmp_path: Path) -> None:
    """A node that talks nonsense has nothing running."""
    process = RunnerProcess(tmp_path, "processes")
    with process.connection as connection:
        connection.sendall(b"\x00\x00\x00\x01\xc1")
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == EXIT_PROTOCOL


async def test_two_runners_never_work_on_one_directory(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one does not start and says why."""
    first = await clients.start()
    with pytest.raises(RunnerStartFailed, match="another runner"):
        await clients.start()
    assert (await first.run(CommandRequest(attempt_id="a", argv=["true"]))).exit_code == 0
    await first.stop()
    await wait_for_previous_runner(tmp_path / LOCK_FILE, 0.0)


async def test_it_stays_small_and_has_no_children_of_its_own(clients: Clients) -> None:
    """Forking is cheap only while the runner is."""
    client = await clients.start()
    assert client.pid is not None
    assert resident_kib(client.pid) < 24 * 1024
    assert children_of(client.pid) == []
