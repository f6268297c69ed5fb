"""The face of the Raft layer: turns of the loop, the journal's thread, and the applied entries.

Nothing is polled. A turn runs when a message came, a command was proposed, a journal
transaction returned or a deadline passed; everything that arrives before the turn starts
is handled by it together. One turn lets the library decide, hands what is pending to the
journal's thread, and applies what is committed. At most one transaction is under way, and
whatever comes meanwhile rides with the next: the slower the disk, the larger the groups.

Messages leave first in a turn, the disk starts next, and the state is changed last, for the
other two go on while it is. Any error that comes out of a turn is final: the layer falls
silent and calls `on_fatal`, once; the process is expected to end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from consensus import frames
from consensus.configuration import Configuration, Seat
from consensus.raft.admission import check_seat, own_seat, promote
from consensus.raft.engine import RaftCore
from consensus.raft.listener import GuardedListener
from consensus.raft.log import RaftLog
from consensus.raft.progress import InFlight
from consensus.raft.transfer import Transfer
from consensus.raft.transport import Events, Transport
from consensus.raft.types import (
    Entry,
    EntryTooLarge,
    Journal,
    Network,
    NotLeader,
    RaftSettings,
)
from consensus.raft.view import RaftView
from consensus.raft.writer import JournalWriter
from consensus.read_rounds import Answer, ReadRounds
from consensus.snapshots.exchange import Snapshots
from consensus.snapshots.types import SnapshotPorts, SnapshotReady
from storage.clock import Environment

logger = logging.getLogger(__name__)


class Raft(RaftView):
    """One member of a consensus group; all methods belong to the event loop's thread.

    `apply` gets newly committed entries in order, each exactly once per process, beginning
    behind `applied_index`; it must not raise. While `may_apply` is false it gets none, and
    the bounds of what is in flight hold up those who propose; `trim` looks again. `receive`
    gets messages that other members sent with `send`. `on_leadership` hears when this member
    begins and ceases to lead. `on_fatal` is called once, with the reason, when the member
    cannot go on.

    `bootstrap` is the first configuration of the cluster, the same on all its first members.
    The journal remembers it; from then on the journal and the log say who belongs together. A
    member that has joined later has none, and its journal was given one.

    The journal is opened and closed by the caller. `writer` runs its transactions; without
    one, a thread of its own does. `snapshots` is where a state comes from for members that
    lack what was trimmed, and where one goes to; `on_fatal` gets `SnapshotReady` when one
    has arrived. Without it a member that needs one stops with `SnapshotNeeded`.

    Raises:
        JournalDamaged: journal and `applied_index` contradict each other.
        MemberRemoved: `member` has no seat in the cluster.
    """

    def __init__(
        self,
        *,
        member: str,
        bootstrap: Configuration | None,
        cluster: str,
        journal: Journal,
        network: Network,
        environment: Environment,
        settings: RaftSettings,
        applied_index: int,
        apply: Callable[[Sequence[Entry]], None],
        receive: Callable[[str, bytes], None],
        on_leadership: Callable[[bool], None],
        on_fatal: Callable[[BaseException], None],
        writer: Executor | None = None,
        snapshots: SnapshotPorts | None = None,
        may_apply: Callable[[], bool] = lambda: True,
    ) -> None:
        self._network = network
        self._environment = environment
        self._settings = settings
        self._apply = apply
        self._may_apply = may_apply
        self._on_leadership = on_leadership
        self._on_fatal = on_fatal
        self._log = RaftLog(journal, settings, applied_index, bootstrap)
        self._writer = JournalWriter(journal, self._log, environment, writer, self._end_write)
        self._seat = own_seat(member, self._log, applied_index, bootstrap)
        self._transport = Transport(
            seat=self._seat,
            cluster=cluster,
            journal=journal,
            log=self._log,
            network=network,
            events=Events(self._opened, self._closed, self._message, receive),
        )
        self.snapshots = Snapshots(
            snapshots, lambda: self._core, cluster=cluster, settings=settings,
            environment=environment, network=network, guarded=self.guarded,
        )  # fmt: skip
        self._core = RaftCore(
            member=member,
            log=self._log,
            post=self._transport.post,
            environment=environment,
            settings=settings,
            applied_index=applied_index,
            on_behind=self.snapshots.on_behind,
        )
        self._reads = ReadRounds(self._core)
        self._running = False
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline_s = 0.0
        # The term this member leads, as `on_leadership` was told; 0 for none.
        self._led_term = 0
        self._in_flight = InFlight(settings)
        self._transfer = Transfer()
        self._peers: dict[str, Seat] = {}

    # --- Life -------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to take part. Starting twice does nothing."""
        if self._running:
            return
        self._running = True
        self._loop = asyncio.get_running_loop()
        self._follow_peers()
        await self._network.start(
            GuardedListener(
                self.guarded, self._transport, self._log, self._wake, self._core, self._seat
            )
        )
        self._wake()

    async def stop(self) -> None:
        """Hand leadership over, if there is somebody to take it, and leave. May be repeated."""
        if self.is_leader and self.connected:
            self.transfer_leadership(None)
            await self._transfer.over.wait()
        self.abort()
        await self._writer.close()
        await self.snapshots.close()
        await self._network.stop()

    def abort(self) -> None:
        """Take no further part, from this instant on, as if the process had been killed."""
        self._running = False
        self._transfer.over.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- Commands and messages --------------------------------------------------------

    def propose(self, command: bytes) -> int:
        """Append a command to the log and return its index.

        The index says where the command stands if it is committed; only an applied entry
        with this index and the same bytes says that it was.

        Raises:
            NotLeader: another member leads, or nobody does.
            EntryTooLarge: the command exceeds `entry_bytes_max`.
            Overloaded: too much is in flight already.
            ValueError: the command is empty.
        """
        self._check_leads()
        if not command:
            raise ValueError("An empty command cannot be told from an entry without one.")
        if len(command) > self._settings.entry_bytes_max:
            raise EntryTooLarge(
                f"The command has {len(command)} bytes, an entry at most "
                f"{self._settings.entry_bytes_max}."
            )
        self._in_flight.admit(len(command), self.in_flight_entries)
        index = self._core.propose(command)
        self._in_flight.add(index, len(command))
        self._wake()
        return index

    def change(self, after: Configuration) -> int:
        """Append a new configuration of the cluster and return its index.

        It is in force at once and counts when it is committed. A learner needs no further
        change: the leader makes it a voter when it has caught up.

        Raises:
            NotLeader: another member leads, or nobody does.
            ChangeRefused: it must not follow on the present one, or not now.
        """
        self._check_leads()
        index = self._core.change(after)
        self._wake()
        return index

    def _check_leads(self) -> None:
        if not self.is_leader or self._transfer.under_way:
            raise NotLeader(None if self.is_leader else self.leader)

    def confirm_read(self, answer: Answer) -> None:
        """Call `answer` with the index that a reader has to wait for, or with None.

        Raises:
            Overloaded: too many wait for that already.
        """
        self._reads.ask(answer)
        self._wake()

    def send(self, member: str, payload: bytes) -> bool:
        """Send a message to another member, past the journal; it may get lost on the way.

        Returns False if the member is not connected or its queue is more than half full:
        the rest is kept for the log.

        Raises:
            EntryTooLarge: the payload exceeds `entry_bytes_max`.
        """
        if len(payload) > self._settings.entry_bytes_max:
            raise EntryTooLarge(
                f"The message has {len(payload)} bytes, at most "
                f"{self._settings.entry_bytes_max} are allowed."
            )
        room = self._settings.send_queue_bytes_max // 2 - self._network.queued_bytes(member)
        if not self._running or room < len(payload):
            return False
        return self._transport.send_application(member, payload)

    def transfer_leadership(self, member: str | None = None) -> None:
        """Ask `member`, or whoever is furthest, to lead; no command is taken meanwhile.

        It happens within an election timeout or not at all, in which case this member
        leads on; `on_leadership` tells.

        Raises:
            NotLeader: this member does not lead.
            ValueError: there is no such other member.
        """
        if not self.is_leader:
            raise NotLeader(self.leader)
        if member is not None and member not in self._core.other_voters:
            raise ValueError(f"Leadership cannot go to {member!r}, which is no other voter.")
        deadline_s = self._environment.monotonic_s() + self._settings.election_max_s
        self._transfer.begin(member, deadline_s)
        self._wake()

    def trim(self, index: int) -> None:
        """Let the journal forget entries up to `index`, whose effects are durable elsewhere.

        The tail stays that the settings ask for, so that short absences need no snapshot.
        """
        self._log.trim(min(index, self.applied_index), self.snapshots.held_index())
        if self.applied_index < self.commit_index:
            self._wake()

    # --- Turns ------------------------------------------------------------------------

    def guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run a part of the layer, and stop the layer if it fails."""
        if not self._running:
            return
        try:
            work(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # an InvariantViolated is no Exception, on purpose
            self.abort()
            if not isinstance(error, SnapshotReady):
                logger.critical("The consensus layer stops: %s", error)
            self._on_fatal(error)

    def _wake(self) -> None:
        if not self._woken and self._running:
            self._woken = True
            self._loop.call_soon(self.guarded, self._turn)

    def _turn(self) -> None:
        self._woken = False
        now_s = self._environment.monotonic_s()
        self._core.silent = self._writer.stalled_s() > self._settings.election_min_s
        self._core.tick()
        if self._reads.advance():
            self._wake()
        self._transfer.pursue(now_s, leads=self._core.leads, ask=self._core.transfer)
        if not self._transfer.under_way:
            promote(self._core)
        self._follow_peers()
        self._writer.begin()
        self._notice_leadership()
        self.snapshots.look()
        self._apply_committed()
        self._arm()

    def _follow_peers(self) -> None:
        """Let network and sessions follow the configuration."""
        peers = self._core.peers
        if peers != self._peers:
            self._peers = peers
            self._transport.set_peers(peers)
            self._network.set_peers({name: seat.address for name, seat in peers.items()})

    def _apply_committed(self) -> None:
        entries = self._core.committed() if self._may_apply() else []
        if not entries:
            return
        self._apply(entries)
        last = entries[-1].index
        self._core.applied(last)
        self._in_flight.landed(last)
        check_seat(self._core, self._seat)
        if last < self._core.commit_index:
            self._wake()

    def _notice_leadership(self) -> None:
        term = self._core.term if self._core.leads else 0
        if term == self._led_term:
            return
        lost, self._led_term = self._led_term, term
        if lost:
            self._in_flight.clear()
            self._on_leadership(False)
        if term:
            self._on_leadership(True)

    def _arm(self) -> None:
        now_s = self._environment.monotonic_s()
        deadline_s = self._core.next_deadline_s()
        if deadline_s <= now_s:
            # Nothing can be done about it now, for instance because nobody is connected.
            deadline_s = now_s + self._settings.heartbeat_s
        if self._timer is not None:
            if self._timer_deadline_s <= deadline_s:
                return
            self._timer.cancel()
        self._timer_deadline_s = deadline_s
        self._timer = self._loop.call_later(deadline_s - now_s, self.guarded, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._turn()

    # --- The journal's thread ---------------------------------------------------------

    def _end_write(self, write: asyncio.Future[None]) -> None:
        self.guarded(self._written, write)

    def _written(self, write: asyncio.Future[None]) -> None:
        write.result()
        self._log.confirm()
        self._core.durable()
        self._transport.release()
        self._turn()

    # --- Messages ---------------------------------------------------------------------

    def _opened(self, member: str) -> None:
        self._core.connected(member)
        self._wake()

    def _closed(self, member: str) -> None:
        self._core.disconnected(member)
        self.snapshots.disconnected(member)

    def _message(self, member: str, term: int, message: frames.Message) -> None:
        if not self.snapshots.receive(member, term, message):
            self._core.receive(member, term, message)
        self._wake()
