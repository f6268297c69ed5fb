"""Three nodes as a new user starts them, and the hand that harms them.

Every process is held by a pidfd from the moment its number is known, so a signal can reach
nobody else, however long ago it died. Whatever was started is dead when the block ends, and
an assertion that fails carries the last lines of all logs.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

CRONCLAVE = str(Path(sys.executable).parent / "cronclave")
# Far more than anything here takes, on a machine that pauses processes for seconds, starts
# them slowly and holds the elections which follow; reached only when something is broken.
PATIENCE_S = 180.0
# One question. Whoever may ask somebody else asks for no longer than a try: a node that is
# stopped takes requests, and answers none.
REQUEST_S = 60.0
TRY_S = 15.0
# After it the launcher is asked a second time, and then killed.
LAUNCHER_S = 30.0
POLL_S = 0.05
LOG_BYTES_SHOWN = 3_000
# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20_000, 32_000, 20)
PORTS_OF_A_CLUSTER = 10
WORKERS_MAX = 8
GONE = (aiohttp.ClientError, ConnectionError, TimeoutError)


async def until(
    condition: Callable[[], Awaitable[object]], what: str, *, timeout_s: float = PATIENCE_S
) -> Any:
    """Return the first true value of `condition`, or fail with what was waited for.

    A condition that raises AssertionError, or because a node is gone, counts as false.
    """
    deadline_s = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            if found := await condition():
                return found
            last = found
        except (AssertionError, *GONE) as error:
            last = error
        if time.monotonic() > deadline_s:
            raise AssertionError(f"After {timeout_s:.0f} s still not: {what}. Last: {last!r}")
        await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def expect(self, *statuses: int) -> Answer:
        """Return this answer, or fail with it when it is not one of those."""
        assert self.status in statuses, (self.status, self.body)
        return self

    @property
    def index(self) -> int:
        return int(self.headers["X-Cronclave-Index"])


class Process:
    """A process that can be signalled and waited for, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return not poll.poll(0)

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    async def dead(self) -> None:
        """Wait for the end, however it comes."""

        async def gone() -> bool:
            return not self.alive

        await until(gone, f"process {self.pid} is dead")

    def close(self) -> None:
        os.close(self._descriptor)


def scheduled_seconds(outcomes: list[Any]) -> list[int]:
    """Return the nominal times of a job's outcomes in order, ranges in full."""
    times = []
    for outcome in outcomes:
        first = round(datetime.fromisoformat(outcome["scheduled_at"]).timestamp())
        times += [first + place for place in range(outcome.get("count", 1))]
    return sorted(times)


def in_seconds(delay_s: float) -> str:
    """Return the time after a delay, in the form of the API."""
    return (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat(timespec="milliseconds")


class Node:
    """One member of the cluster: its address, its directory, and its process of the moment."""

    def __init__(self, session: aiohttp.ClientSession, entry: Mapping[str, Any]) -> None:
        self.name: str = entry["name"]
        self.url: str = entry["url"].rstrip("/")
        self.data_dir = Path(entry["data_dir"])
        # The file it is started with, if it is not the one of the first members.
        self.config: Path | None = entry.get("config")
        self.process = Process(entry["pid"])
        self._session = session

    async def request(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float = REQUEST_S,
    ) -> Answer:
        """Send a request and return the answer, its body decoded if it is JSON."""
        if document is not None:
            body = json.dumps(document).encode()
        sent = {**({} if body is None else {"Content-Type": "application/json"}), **(headers or {})}
        data = None if body is None else io.BytesIO(body)
        timeout = aiohttp.ClientTimeout(total=patience_s)
        async with self._session.request(
            method, self.url + path, data=data, headers=sent, timeout=timeout
        ) as response:
            content = await response.read()
            decoded: Any = content
            if "json" in response.headers.get("Content-Type", ""):
                decoded = json.loads(content)
            return Answer(response.status, response.headers.copy(), decoded)

    async def get(self, path: str) -> Any:
        """Return the decoded body of a GET that succeeds."""
        return (await self.request("GET", path)).expect(200).body

    async def job_names(self, min_index: int = 0) -> set[str]:
        """Return the names of all jobs that this node knows, all pages of them."""
        names: set[str] = set()
        cursor = ""
        while True:
            page = await self.get(f"/v1/jobs?limit=1000&min_index={min_index}{cursor}")
            names.update(job["name"] for job in page["items"])
            if page["next_cursor"] is None:
                return names
            cursor = f"&cursor={page['next_cursor']}"

    async def outcomes(self, job: str) -> list[Any]:
        """Return what became of the latest occurrences of a job, by its id."""
        items = (await self.get(f"/v1/jobs/{job}/runs?limit=1000"))["items"]
        assert isinstance(items, list)
        return items

    async def run(self, run: str) -> Any:
        """Return a run in full, by its id."""
        return await self.get(f"/v1/runs/{run}")

    async def ended(self, run: str) -> Any:
        """Wait until this node knows that a run has ended, and return it."""

        async def found() -> Any:
            shown = await self.run(run)
            return shown if shown["state"] == "ended" else None

        return await until(found, f"run {run} has ended")

    async def ready(self) -> bool:
        return (await self.request("GET", "/readyz")).status == 200

    async def status(self) -> Any:
        """Return how this node sees the cluster."""
        return await self.get("/v1/cluster")

    async def kill(self) -> None:
        """End it as a power loss would."""
        self.process.send(signal.SIGKILL)
        await self.process.dead()


class Cluster:
    """Some nodes on the loopback address, started by `cronclave dev`."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession, size: int = 3) -> None:
        self.directory = directory
        self._size = size
        self.nodes: list[Node] = []
        self._session = session
        self._children: list[subprocess.Popen[bytes]] = []
        self._retired: list[Process] = []
        self._gone: list[Node] = []
        self._spare_port = 0

    # --- Life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all nodes and wait until each is ready."""
        self._spare_port = free_port()
        arguments = ["dev", "--nodes", str(self._size), "--no-samples"]
        arguments += ["--data", str(self.directory), "--port", str(self._spare_port)]
        launcher = self._spawn(arguments, "dev")
        self._spare_port += 2 * self._size

        async def listed() -> list[Any]:
            with suppress(OSError, ValueError):
                return list(json.loads((self.directory / "dev.json").read_text()))
            return [None] if launcher.poll() is not None else []

        entries = await until(listed, "dev.json is written")
        assert entries != [None], f"cronclave dev ended with {launcher.returncode}"
        self.nodes = [Node(self._session, entry) for entry in entries]
        names = [f"n{number}" for number in range(1, self._size + 1)]
        assert [node.name for node in self.nodes] == names
        await self.ready()

    async def restart(self, *nodes: Node, checkout: Path | None = None) -> None:
        """Start nodes that have died on the data that they have left behind.

        With `checkout` they run the program that lies there, see `tests.support.checkout`.
        """
        for node in nodes:
            assert not node.process.alive
            child = self.spawn(node.name, checkout, node.config)
            self._retired.append(node.process)
            node.process = Process(child.pid)

    def spawn(
        self, name: str, checkout: Path | None = None, config: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the node of this name, and return its process."""
        file = config or self.directory / "cluster.toml"
        return self._spawn(["node", "--config", str(file), "--name", name], name, checkout)

    async def join(self, name: str, *options: str, token: str = "") -> Node:
        """Take in a new member as an operator does, with a token, and start it."""
        http_port, peer_port = self._spare_port, self._spare_port + 1
        self._spare_port += 2
        authority = str(self.directory / "authority")
        token = token or await self.command("token", name, "--authority", authority, *options)
        place = self.directory / "joined" / name
        await self.command(
            "join", token, "--name", name, "--address", f"127.0.0.1:{peer_port}",
            "--dir", str(place), "--http-port", str(http_port),
        )  # fmt: skip
        config = place / "cluster.toml"
        child = self.spawn(name, config=config)
        entry = {
            "name": name,
            "url": f"http://127.0.0.1:{http_port}",
            "data_dir": str(place / "data" / name),
            "pid": child.pid,
            "config": config,
        }
        node = Node(self._session, entry)
        self.nodes.append(node)
        return node

    async def command(self, *words: str) -> str:
        """Run a `cronclave cluster` command against all nodes; return what it prints.

        It asks each node once, so it is run when there is a leader.
        """
        await self.leader()
        addresses = ",".join(node.url for node in self.alive)
        environment = os.environ | {"CRONCLAVE_ADDR": addresses}
        child = await asyncio.create_subprocess_exec(
            CRONCLAVE, "cluster", *words, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await child.communicate()
        assert child.returncode == 0, (words, err.decode())
        return out.decode().strip()

    async def roles(self) -> dict[str, str | None]:
        """Return who belongs to the cluster, and as what."""
        found = await self.alive[0].get("/v1/cluster/configuration")
        return {member["name"]: member["role"] for member in found["members"]}

    def retire(self, node: Node) -> None:
        """Count no more on a node that belongs to the cluster no more."""
        self.nodes.remove(node)
        self._gone.append(node)

    async def ready(self, *nodes: Node) -> None:
        """Wait until these nodes, or all, say that they are ready."""
        for node in nodes or self.nodes:

            async def decided(node: Node = node) -> bool:
                if not node.process.alive:
                    return True
                answer = await node.request("GET", "/readyz")
                assert answer.status == 200, answer.body
                return True

            await until(decided, f"{node.name} is ready")
            assert node.process.alive, f"{node.name} has ended instead of becoming ready"

    def status_of(self, node: Node) -> int:
        """Return the exit status of a node that was restarted here and has ended."""
        child = next(child for child in self._children if child.pid == node.process.pid)
        return child.wait(timeout=PATIENCE_S)

    def _spawn(
        self, arguments: Sequence[str], name: str, checkout: Path | None = None
    ) -> subprocess.Popen[bytes]:
        variables = None if checkout is None else {**os.environ, "PYTHONPATH": str(checkout)}
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                [CRONCLAVE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                cwd=checkout,
            )
        self._children.append(child)
        return child

    def close(self) -> None:
        """End everything that was started here, whatever state it is in."""
        gone = [node.process for node in self._gone]
        processes = [*self._retired, *gone, *(node.process for node in self.nodes)]
        for process in processes:
            process.send(signal.SIGKILL)
        # The launcher may have nodes that are not known here; asked twice, it kills them.
        for child in self._children[:1]:
            for _ in range(2):
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=LAUNCHER_S)
        for child in self._children:
            child.kill()
            child.wait()
        for process in processes:
            process.close()

    # --- Logs ------------------------------------------------------------------------------

    def log(self, name: str) -> Path:
        """Return where the output of a process goes that was started here."""
        return self.directory.parent / f"{name}.output"

    def last_words(self) -> str:
        """Return the ends of all logs."""
        folders = (self.directory.parent, self.directory)
        logs = sorted({path for folder in folders for path in _logs(folder)})
        return "\n".join(map(_tail, logs))

    # --- Questions ---------------------------------------------------------------------------

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.process.alive]

    def others(self, *nodes: Node) -> list[Node]:
        return [node for node in self.nodes if node not in nodes]

    def named(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    async def leader(self) -> Node:
        """Wait until all that live agree on a leader that lives, and return it."""

        async def agreed() -> Node | None:
            names = {(await node.status())["leader"] for node in self.alive}
            found = [node for node in self.alive if {node.name} == names]
            return found[0] if found else None

        leader = await until(agreed, "the nodes agree on a leader")
        assert isinstance(leader, Node)
        return leader

    async def write(
        self, path: str, document: object, first: Node, *, key: str = "", alone: bool = False
    ) -> Answer:
        """Post something until a node acknowledges it, as a careful client does.

        The same idempotency key goes with every try, so it takes effect once. With `alone`
        only the first node is asked, as often as it takes.
        """
        headers = {"Idempotency-Key": key or str(uuid4())}
        order = [first] if alone else [first, *self.others(first)]
        tries = 0

        async def acknowledged() -> Answer | None:
            nonlocal tries
            node = order[tries % len(order)]
            tries += 1
            answer = await node.request("POST", path, document, headers=headers, patience_s=TRY_S)
            return None if answer.status in (429, 503, 504) else answer

        answer = await until(acknowledged, f"POST {path} is acknowledged")
        assert isinstance(answer, Answer)
        return answer.expect(200, 201, 202)

    async def agree_on_state(self) -> None:
        """Wait until all nodes are at one index; fail if their states differ there."""

        async def level() -> list[Any] | None:
            states = await asyncio.gather(*(node.status() for node in self.nodes))
            return states if len({state["applied_index"] for state in states}) == 1 else None

        states = await until(level, "all nodes have applied the same index")
        assert len({state["state_hash"] for state in states}) == 1, states


def _logs(folder: Path) -> Iterable[Path]:
    return (*folder.glob("*.output"), *folder.glob("*.log"), *folder.glob("*/*.log"))


def _tail(log: Path) -> str:
    text = log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
    return f"--- {log.parent.name}/{log.name}\n{text}"


def free_port() -> int:
    """Return the first of a row of ports that nobody uses.

    A port counts as free until it is bound, so test processes that run side by side look in
    rows of their own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    rows = PORTS[worker % WORKERS_MAX :: WORKERS_MAX]
    start = os.getpid() % len(rows)
    for place in range(len(rows)):
        base = rows[(start + place) % len(rows)]
        if all(_is_free(port) for port in range(base, base + PORTS_OF_A_CLUSTER)):
            return base
    raise AssertionError("There are no free ports.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@asynccontextmanager
async def some_nodes(folder: Path, size: int) -> AsyncIterator[Cluster]:
    """Start a cluster whose data lies below `folder`; end all of it at the end."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        cluster = Cluster(folder / "cluster", session, size)
        try:
            await cluster.start()
            yield cluster
        except BaseException as error:
            error.add_note(cluster.last_words())
            raise
        finally:
            cluster.close()


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[Cluster]:
    """Start a cluster as a new user does."""
    async with some_nodes(folder, 3) as cluster:
        yield cluster
