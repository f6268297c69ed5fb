"""From a configuration to a running member, and back to nothing.

The order matters. The data directory is locked first, so that no second process can work
on it. Then the runner is started, before any state makes this process large; it begins
only when everything that an earlier runner of this directory had launched is dead. Then
come the disks, the network, the duties, and the API last.

A process may live several lives. When a snapshot has arrived, everything but the lock and
the runner is closed, the snapshot takes the state's place, and the member begins again
with a new incarnation, as if the process had been started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from api.application import make_application
from api.server import start_server
from consensus.network.peers import PeerNetwork
from consensus.raft.types import MemberRemoved, RaftSettings
from consensus.snapshots.types import SnapshotPorts, SnapshotReady
from consensus.state_check import StateDiverged
from node.disk import DataDisk
from node.node import Node
from node.quarantine import close_directory, leave_directory
from node.runner.descriptors import raise_descriptor_limit
from node.runner.lock import LOCK_FILE
from node.runner_client import RunnerClient, wait_for_previous_runner
from node.settings import NodeSettings
from node.spool import Spool
from storage.clock import Environment, SystemEnvironment
from storage.installation import STATE, finish_installation
from storage.invariant import InvariantViolated
from storage.journal import LmdbJournal
from storage.journal_format import DiskFailed
from storage.lmdb_store import LmdbStore
from storage.snapshot_store import LmdbSink, LmdbSource

logger = logging.getLogger(__name__)

EXIT_FATAL = 70
# The state was found to be wrong; a supervisor must not try again by itself.
EXIT_QUARANTINED = 79
# The disk is almost full; whoever starts it again without making room gets the same.
EXIT_NO_ROOM = 75
EXIT_REMOVED = 80
FAREWELL_S_MAX = 30.0
# A member that was killed leaves a runner that is still killing what it ran, and a busy machine
# takes its time for that. Whoever is started again at once has to wait for it, not to fail.
PREVIOUS_RUNNER_S_MAX = 30.0
GRACE_WITHOUT_ROOM_S = 5.0


class DirectoryInUse(Exception):
    """Another process works on this data directory."""


class TooManySlots(Exception):
    """The system does not allow as many commands at once as there are slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """Everything a member is started from."""

    settings: NodeSettings
    raft: RaftSettings
    data_dir: Path
    http_host: str
    http_port: int
    network: PeerNetwork


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory, or say who cannot have it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Also one that was made by hand: what jobs carry and print is nobody else's business.
    data_dir.chmod(0o700)
    descriptor = os.open(data_dir / "node.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DirectoryInUse(
            f"{data_dir} is in use by another process; stop that one, or give this member a"
            " directory of its own."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


async def run_member(boot: Boot) -> int:
    """Run a member until it is asked to stop or must; return the exit status."""
    environment = SystemEnvironment()
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[None] = loop.create_future()
    again: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask, asked, again)
    died: asyncio.Future[BaseException] = loop.create_future()
    loop.set_exception_handler(partial(notice_broken_promise, died))
    runner = RunnerClient(environment, on_death=lambda error: _tell(died, error))
    await start_runner(runner, boot.data_dir)
    try:
        check_slots(boot.settings.slots, runner.attempts_max)
        # Behind the runner, which would pass a higher limit on to commands.
        raise_descriptor_limit()
        return await _run(boot, environment, runner, _Ends(asked, again, died))
    finally:
        await runner.stop()


async def start_runner(runner: RunnerClient, data_dir: Path) -> None:
    """Start the runner, as soon as that of an earlier life on this directory has ended.

    Raises:
        RunnerError: the earlier one does not end, or this one does not start.
    """
    await wait_for_previous_runner(data_dir / LOCK_FILE, PREVIOUS_RUNNER_S_MAX)
    await runner.start(data_dir)


def notice_broken_promise(
    died: asyncio.Future[BaseException],
    loop: asyncio.AbstractEventLoop,
    context: dict[str, Any],
) -> None:
    """Let a broken invariant end the process wherever it was found, a failed disk as well.

    What comes out of a plain callback would be logged by the loop, and passed over.
    """
    error = context.get("exception")
    if isinstance(error, InvariantViolated | DiskFailed):
        _tell(died, error)
    loop.default_exception_handler(context)


def check_slots(slots: int, attempts_max: int) -> None:
    """Refuse more slots than there are commands that can run: some would fail at once.

    Raises:
        TooManySlots: with the numbers, and what can be done.
    """
    if slots > attempts_max:
        raise TooManySlots(
            f"node.slots is {slots}, but the limit of open files leaves room for {attempts_max} "
            "commands at once. Raise the hard limit (ulimit -Hn, LimitNOFILE= in a service "
            "file) or lower node.slots."
        )


@dataclass(frozen=True, slots=True)
class _Ends:
    """What can end a member from outside: to be asked, once or again, or its runner's death."""

    asked: asyncio.Future[None]
    again: asyncio.Future[None]
    died: asyncio.Future[BaseException]


def _ask(*wishes: asyncio.Future[None]) -> None:
    for wish in wishes:
        if not wish.done():
            wish.set_result(None)
            return


def _tell(died: asyncio.Future[BaseException], error: BaseException) -> None:
    if not died.done():
        died.set_result(error)


async def _run(
    boot: Boot,
    environment: Environment,
    runner: RunnerClient,
    ends: _Ends,
) -> int:
    """Live one life after another, until one does not end with a snapshot to install."""
    installed = 0
    while True:
        life = _begin(boot, environment, runner, installed)
        installed = life.installed
        status = await _live(boot, life, runner, ends)
        if status is not None:
            return status


@dataclass(frozen=True, slots=True)
class _Life:
    """One life of a member: its node, and the files that are closed behind it."""

    node: Node
    journal: LmdbJournal
    spool: Spool
    installed: int


def _begin(boot: Boot, environment: Environment, runner: RunnerClient, installed: int) -> _Life:
    """Open the disks, finish an installation that waits, and put the node together."""
    settings = boot.settings
    journal = LmdbJournal(
        boot.data_dir / "journal",
        cluster=settings.cluster,
        member=settings.name,
        environment=environment,
    )
    installed += finish_installation(boot.data_dir, journal) is not None
    store = LmdbStore(boot.data_dir / STATE)
    spool = Spool(boot.data_dir / "spool")
    source = LmdbSource(store, cluster=settings.cluster, environment=environment)
    node = Node(
        settings,
        environment=environment,
        journal=journal,
        network=boot.network,
        store=store,
        spool=spool,
        runner=runner,
        raft_settings=boot.raft,
        source=source,
        snapshots=SnapshotPorts(source=source, sink=LmdbSink(boot.data_dir), installed=installed),
        disk=DataDisk(boot.data_dir, journal, store),
    )
    return _Life(node, journal, spool, installed)


async def _live(
    boot: Boot,
    life: _Life,
    runner: RunnerClient,
    ends: _Ends,
) -> int | None:
    """Run until the end of a life; return the exit status, None if another life follows."""
    node, settings = life.node, boot.settings
    application = make_application(node, version=settings.version, registry=node.metrics.registry)
    await node.start()
    server = await start_server(application, boot.http_host, boot.http_port)
    logger.info("Member %s serves http://%s:%d", settings.name, boot.http_host, boot.http_port)
    await _first_of(ends.asked, node.leaving, ends.died, node.fatal)
    reason = node.leaving.result() if node.leaving.done() else None
    if not (ends.died.done() or node.fatal.done()):
        await _drain(node, _grace_s(settings, reason), ends)
    if ends.died.done() or (node.fatal.done() and not _is_ready(node)):
        await _die(boot, node, runner, (ends.died if ends.died.done() else node.fatal).result())
    if node.fatal.done():
        node.release()
    await server.stop()
    await asyncio.wait_for(node.stop(), timeout=FAREWELL_S_MAX)
    if not (ends.asked.done() or node.leaving.done()):
        if node.worker.running_count:
            # The next life would declare this one dead, and with it what still runs.
            await _die(boot, node, runner, RuntimeError("Attempts go on after they were stopped."))
        life.journal.close()
        life.spool.close()
        return None
    logger.info("Member %s has stopped.", settings.name)
    return 0 if reason is None else EXIT_NO_ROOM


def _is_ready(node: Node) -> bool:
    """Tell whether what ends a life is a snapshot that waits to be installed."""
    return isinstance(node.fatal.result(), SnapshotReady)


async def _die(boot: Boot, node: Node, runner: RunnerClient, error: BaseException) -> NoReturn:
    # What it holds in memory may not be true; the journal and its peers are.
    trace = None if isinstance(error, MemberRemoved) else error
    logger.critical("This member must stop: %s", error, exc_info=trace)
    status = _last_will(boot, node, error)
    await runner.stop()
    logging.shutdown()
    os._exit(status)


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _grace_s(settings: NodeSettings, reason: Exception | None) -> float:
    """Return how long runs may go on; a member that must stop has no time for all of them."""
    if reason is None:
        return settings.drain_grace_ms / 1000
    logger.critical("This member must stop: %s", reason)
    return min(settings.drain_grace_ms / 1000, GRACE_WITHOUT_ROOM_S)


async def _drain(node: Node, grace_s: float, ends: _Ends) -> None:
    """Let a member put down what it holds; whoever asks a second time ends the patience."""
    logger.info("Member %s drains.", node.settings.name)
    ends.again.add_done_callback(lambda _: node.departure.hurry())
    drained = asyncio.ensure_future(node.departure.drain(grace_s))
    await _first_of(drained, ends.died, node.fatal)
    if drained.done():
        drained.result()


def _last_will(boot: Boot, node: Node, error: BaseException) -> int:
    """Leave behind what a failure asks for; return the exit status that names it."""
    if isinstance(error, MemberRemoved):
        leave_directory(boot.data_dir, str(error))
        return EXIT_REMOVED
    if not isinstance(error, StateDiverged):
        return EXIT_FATAL
    paths = {"journal_path": boot.data_dir / "journal", "state_path": boot.data_dir / "state"}
    marker = close_directory(boot.data_dir, str(error), {**node.self_report.post_mortem(), **paths})
    logger.critical("This member is in quarantine, and %s says why and what to do.", marker)
    return EXIT_QUARANTINED
