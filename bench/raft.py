"""The consensus layer alone: three members in one process, loopback TCP, synced journals.

    python -m bench.raft [--seconds 5] [--tls] [--memory]

Prints entries per second with 64 commands of 1 KB in flight, the latency of one command at
a time, and, as a reference of the machine, the time of one journal transaction by itself.
All three members share one interpreter here, which a real cluster does not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from consensus.configuration import first_configuration
from consensus.driver import Raft
from consensus.network.certificates import contexts, create_authority, issue_member
from consensus.network.peers import PeerNetwork
from consensus.raft.types import Entry, Journal, RaftSettings
from storage.clock import SystemEnvironment
from storage.journal import LmdbJournal
from storage.journal_format import Batch
from storage.memory_journal import MemoryDisk, MemoryJournal

NAMES = ("a", "b", "c")
# Where the members are is known only when they listen.
BOOTSTRAP = first_configuration(dict.fromkeys(NAMES, ""))
COMMAND = b"x" * 1024
IN_FLIGHT = 64


class Member:
    """One member that counts what it applies."""

    def __init__(self, name: str, root: Path, *, tls: bool, memory: bool) -> None:
        environment = SystemEnvironment()
        settings = RaftSettings(election_min_s=1.0, election_max_s=2.0)
        self.network = PeerNetwork(
            member=name,
            cluster="bench",
            listen=("127.0.0.1", 0),
            tls=contexts(root / "keys" / name) if tls else None,
            environment=environment,
            settings=settings,
        )
        journal: Journal = MemoryJournal(MemoryDisk(name.encode() * 16))
        if not memory:
            journal = LmdbJournal(
                root / name, cluster="bench", member=name, environment=environment
            )
        self.applied = asyncio.Event()
        self.leads = asyncio.Event()
        self.raft = Raft(
            member=name,
            bootstrap=BOOTSTRAP,
            cluster="bench",
            journal=journal,
            network=self.network,
            environment=environment,
            settings=settings,
            applied_index=0,
            apply=self._apply,
            receive=lambda member, payload: None,
            on_leadership=lambda leads: self.leads.set() if leads else self.leads.clear(),
            on_fatal=self._fatal,
        )

    def _apply(self, entries: Sequence[Entry]) -> None:
        self.applied.set()

    def _fatal(self, error: BaseException) -> None:
        raise SystemExit(str(error))

    async def until_applied(self, index: int) -> None:
        """Wait until an index is applied here."""
        while self.raft.applied_index < index:
            self.applied.clear()
            await self.applied.wait()


async def throughput(leader: Member, seconds: float) -> float:
    """Return entries per second with `IN_FLIGHT` proposers that wait for their own."""
    raft, began, first = leader.raft, time.perf_counter(), leader.raft.applied_index

    while time.perf_counter() - began < seconds:
        while raft.in_flight_entries < IN_FLIGHT:
            raft.propose(COMMAND)
        leader.applied.clear()
        await leader.applied.wait()
    return (raft.applied_index - first) / (time.perf_counter() - began)


async def latencies(leader: Member, count: int) -> list[float]:
    """Return the milliseconds from each proposal to its application, one at a time."""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await leader.until_applied(leader.raft.propose(COMMAND))
        times.append((time.perf_counter() - began) * 1000)
    return times


def journal_ms(root: Path, count: int) -> float:
    """Return the median milliseconds of one journal transaction with one command."""
    journal = LmdbJournal(
        root / "reference", cluster="bench", member="r", environment=SystemEnvironment()
    )
    times: list[float] = []
    for index in range(1, count + 1):
        began = time.perf_counter()
        journal.write(Batch(records=[(COMMAND, index, 0)]))
        times.append((time.perf_counter() - began) * 1000)
    journal.close()
    return statistics.median(times)


async def measure(root: Path, *, seconds: float, tls: bool, memory: bool) -> None:
    """Run the cluster and print what it did."""
    if tls:
        environment = SystemEnvironment()
        create_authority(root / "ca", cluster="bench", environment=environment)
        for name in NAMES:
            issue_member(
                root / "ca",
                root / "keys" / name,
                cluster="bench",
                member=name,
                environment=environment,
            )
    members = [Member(name, root, tls=tls, memory=memory) for name in NAMES]
    for member in members:
        await member.raft.start()
    addresses = {n: f"127.0.0.1:{m.network.port}" for n, m in zip(NAMES, members, strict=True)}
    for member in members:
        member.network.set_peers(addresses)
    began = time.perf_counter()
    waits = [asyncio.create_task(member.leads.wait()) for member in members]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    print(f"first leader after      {time.perf_counter() - began:8.2f} s")
    leader = members[[wait.done() for wait in waits].index(True)]
    for wait in waits:
        wait.cancel()
    await latencies(leader, 50)
    print(f"journal transaction p50 {journal_ms(root, 300):8.2f} ms")
    one = sorted(await latencies(leader, 1000))
    print(f"one in flight p50       {statistics.median(one):8.2f} ms")
    print(f"one in flight p99       {one[int(len(one) * 0.99)]:8.2f} ms")
    rates = [await throughput(leader, seconds) for _ in range(3)]
    print(f"{IN_FLIGHT} in flight            {statistics.median(rates):8.0f} entries/s {rates}")
    for member in members:
        await member.raft.stop()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--memory", action="store_true", help="journals without a disk")
    given = parser.parse_args()
    with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        uvloop.run(
            measure(Path(directory), seconds=given.seconds, tls=given.tls, memory=given.memory)
        )


if __name__ == "__main__":
    main()
