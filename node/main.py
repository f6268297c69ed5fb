"""`cronclave node`: a configuration becomes a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from importlib.metadata import version

import uvloop

from consensus.configuration import first_configuration, split_address
from consensus.features import LevelUnsupported
from consensus.network.certificates import CertificateError, load_contexts
from consensus.network.peers import PeerNetwork
from consensus.raft.types import MemberRemoved, RaftSettings
from node.boot import (
    EXIT_FATAL,
    EXIT_NO_ROOM,
    EXIT_QUARANTINED,
    EXIT_REMOVED,
    Boot,
    DirectoryInUse,
    TooManySlots,
    locked,
    run_member,
)
from node.config.settings import Config
from node.disk import DiskAlmostFull, Marks, check_room
from node.quarantine import Quarantined, Removed, check_directory, leave_directory
from node.runner_client import RunnerError
from node.settings import NodeSettings
from storage.clock import SystemEnvironment
from storage.invariant import InvariantViolated, invariant
from storage.journal_format import DiskFailed, JournalDamaged, JournalMismatch
from storage.snapshot_format import SnapshotDamaged

logger = logging.getLogger(__name__)

EXIT_REFUSED = 78  # the configuration cannot be used as it is (EX_CONFIG)

# What ends a member, each with its exit status and what it means; the first that fits counts.
# Starting again changes nothing about a refusal; somebody has to look at it.
ENDS: tuple[tuple[tuple[type[BaseException], ...], int, str], ...] = (
    ((Removed, MemberRemoved), EXIT_REMOVED, "This member cannot go on"),
    ((DiskAlmostFull,), EXIT_NO_ROOM, "This member cannot start"),
    ((Quarantined,), EXIT_QUARANTINED, "This member cannot start"),
    (
        (
            CertificateError,
            DirectoryInUse,
            TooManySlots,
            JournalMismatch,
            JournalDamaged,
            LevelUnsupported,
            SnapshotDamaged,
        ),
        EXIT_REFUSED,
        "This member cannot start",
    ),
    ((DiskFailed, RunnerError, OSError), EXIT_FATAL, "This member must stop"),
    (
        (InvariantViolated,),
        EXIT_FATAL,
        "This member must stop, its state cannot be trusted",
    ),
)


# Objects between two searches of the youngest, and searches between those of the older ones.
GARBAGE_THRESHOLDS = (20_000, 20, 20)


def run_node(config: Config) -> int:
    """Run the configured member until it is told to stop; return the exit status."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s {config.node.name} %(levelname)s %(name)s: %(message)s",
    )
    try:
        return _run_guarded(config)
    except BaseException as error:
        for kinds, status, meaning in ENDS:
            if isinstance(error, kinds):
                logger.critical("%s: %s", meaning, error)
                return status
        raise


def _run_guarded(config: Config) -> int:
    data_dir = config.node.data_dir
    with locked(data_dir):
        check_directory(data_dir)
        check_room(data_dir, _disk_marks(config))
        try:
            return _run(config)
        except MemberRemoved as error:
            leave_directory(data_dir, str(error))
            raise


def collect_rarely() -> None:
    """Look for cycles of garbage less often than Python does by itself.

    A member makes few of them: what a request or an entry leaves behind is freed by counting
    references. A batch of a thousand jobs is tens of thousands of objects, and by default
    each 700 of them would start a search; that was a tenth of the processor time of a batch.
    What exists by now lives for ever, and need not be searched at all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _run(config: Config) -> int:
    collect_rarely()
    factory = uvloop.new_event_loop if config.node.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run_member(boot_of(config)))


def boot_of(config: Config) -> Boot:
    """Translate a configuration into what a member is started from."""
    scheduler = config.scheduler
    http_port = config.http.port  # a port of the member's own is in it already
    addresses = {member.name: member.address for member in config.cluster.members}
    settings = NodeSettings(
        name=config.node.name,
        cluster=config.cluster.name,
        bootstrap=None if config.cluster.joined else first_configuration(addresses),
        http_address=f"http://{config.http.host}:{http_port}",
        version=version("cronclave"),
        slots=config.node.slots,
        labels=config.node.labels,
        horizon_ms=scheduler.horizon_ms,
        steal_after_ms=scheduler.steal_after_ms,
        lease_ms=scheduler.lease_ms,
        heartbeat_ms=scheduler.heartbeat_ms,
        clock_skew_ms_max=scheduler.max_clock_skew_ms,
        output_kept_ms=scheduler.output_retention_ms,
        drain_grace_ms=config.node.drain_grace_ms,
        disk_low_bytes=config.node.disk_low_bytes,
        disk_critical_bytes=config.node.disk_critical_bytes,
    )
    return Boot(
        settings=settings,
        raft=_raft_settings(config),
        data_dir=config.node.data_dir,
        http_host=config.http.host,
        http_port=http_port,
        network=_network(config),
    )


def _disk_marks(config: Config) -> Marks:
    return Marks(
        low_bytes=config.node.disk_low_bytes, critical_bytes=config.node.disk_critical_bytes
    )


def _raft_settings(config: Config) -> RaftSettings:
    raft = config.raft
    return RaftSettings(
        election_min_s=raft.election_min_ms / 1000,
        election_max_s=raft.election_max_ms / 1000,
        heartbeat_s=raft.heartbeat_ms / 1000,
        tail_entries_max=raft.journal_tail_entries,
        tail_bytes_max=raft.journal_tail_bytes,
        snapshot_bytes_per_s=raft.snapshot_bytes_per_s,
    )


def _network(config: Config) -> PeerNetwork:
    tls = config.tls
    contexts = None
    if not tls.insecure_loopback:
        invariant(
            tls.ca is not None and tls.certificate is not None and tls.key is not None,
            "A configuration without certificates was accepted.",
        )
        assert tls.ca is not None
        assert tls.certificate is not None
        assert tls.key is not None
        contexts = load_contexts(tls.ca, tls.certificate, tls.key)
    own = next(m.address for m in config.cluster.members if m.name == config.node.name)
    listen = split_address(own)
    invariant(listen is not None, "A configuration with a bad address was accepted.")
    assert listen is not None
    return PeerNetwork(
        member=config.node.name,
        cluster=config.cluster.name,
        listen=listen,
        tls=contexts,
        environment=SystemEnvironment(),
        settings=_raft_settings(config),
    )
