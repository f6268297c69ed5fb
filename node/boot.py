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
from pathlib import Path

from api.application import make_application
from api.server import start_server
from consensus.peers import PeerNetwork
from consensus.raft_types import RaftSettings
from consensus.snapshot_types import SnapshotReady
from consensus.state_check import StateDiverged
from node.node import Node
from node.quarantine import close_directory
from node.runner.descriptors import raise_descriptor_limit
from node.runner_client import RunnerClient
from node.settings import NodeSettings
from node.spool import Spool
from storage.clock import Environment, SystemEnvironment
from storage.installation import STATE, finish_installation
from storage.journal import LmdbJournal
from storage.lmdb_store import LmdbStore
from storage.snapshot_store import LmdbSink, LmdbSource

logger = logging.getLogger(__name__)

EXIT_FATAL = 70
# The state was found to be wrong; a supervisor must not try again by itself.
EXIT_QUARANTINED = 79
FAREWELL_S_MAX = 30.0


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
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask, asked)
    died: asyncio.Future[BaseException] = loop.create_future()
    runner = RunnerClient(environment, on_death=lambda error: _tell(died, error))
    await runner.start(boot.data_dir)
    try:
        check_slots(boot.settings.slots, runner.attempts_max)
        # Behind the runner, which would pass a higher limit on to commands.
        raise_descriptor_limit()
        return await _run(boot, environment, runner, asked, died)
    finally:
        await runner.stop()


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


def _ask(asked: asyncio.Future[None]) -> None:
    if not asked.done():
        asked.set_result(None)


def _tell(died: asyncio.Future[BaseException], error: BaseException) -> None:
    if not died.done():
        died.set_result(error)


async def _run(
    boot: Boot,
    environment: Environment,
    runner: RunnerClient,
    asked: asyncio.Future[None],
    died: asyncio.Future[BaseException],
) -> int:
    """Live one life after another, until one does not end with a snapshot to install."""
    installed = 0
    while True:
        life = _begin(boot, environment, runner, installed)
        installed = life.installed
        status = await _live(boot, life, runner, asked, died)
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
    node = Node(
        settings,
        environment=environment,
        journal=journal,
        network=boot.network,
        store=store,
        spool=spool,
        runner=runner,
        raft_settings=boot.raft,
        source=LmdbSource(store, cluster=settings.cluster, environment=environment),
        sink=LmdbSink(boot.data_dir),
        snapshots_installed=installed,
    )
    return _Life(node, journal, spool, installed)


async def _live(
    boot: Boot,
    life: _Life,
    runner: RunnerClient,
    asked: asyncio.Future[None],
    died: asyncio.Future[BaseException],
) -> int | None:
    """Run until the end of a life; return the exit status, None if another life follows."""
    node, settings = life.node, boot.settings
    application = make_application(node, version=settings.version, registry=node.metrics.registry)
    await node.start()
    server = await start_server(application, boot.http_host, boot.http_port)
    logger.info("Member %s serves http://%s:%d", settings.name, boot.http_host, boot.http_port)
    await asyncio.wait((asked, died, node.fatal), return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        await server.stop()
        await asyncio.wait_for(node.stop(), timeout=FAREWELL_S_MAX)
        logger.info("Member %s has stopped.", settings.name)
        return 0
    error = (died if died.done() else node.fatal).result()
    if isinstance(error, SnapshotReady):
        logger.info("Member %s begins another life: %s", settings.name, error)
        node.release()
        await server.stop()
        await asyncio.wait_for(node.stop(), timeout=FAREWELL_S_MAX)
        if not node.worker.running_count:
            life.journal.close()
            life.spool.close()
            return None
        # The next life would declare this one dead, and with it what still runs.
        error = RuntimeError("Attempts go on after they were stopped.")
    # What it holds in memory may not be true; the journal and its peers are.
    logger.critical("This member must stop: %s", error, exc_info=error)
    status = _last_will(boot, node, error)
    await runner.stop()
    logging.shutdown()
    os._exit(status)


def _last_will(boot: Boot, node: Node, error: BaseException) -> int:
    """Leave behind what a failure asks for; return the exit status that names it."""
    if not isinstance(error, StateDiverged):
        return EXIT_FATAL
    paths = {"journal_path": boot.data_dir / "journal", "state_path": boot.data_dir / "state"}
    marker = close_directory(boot.data_dir, str(error), {**node.self_report.post_mortem(), **paths})
    logger.critical("This member is in quarantine, and %s says why and what to do.", marker)
    return EXIT_QUARANTINED
