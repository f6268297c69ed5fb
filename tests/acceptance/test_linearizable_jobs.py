"""Jobs are linearizable: what all clients saw, while members died, has one order."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

from tests.support.cluster import Cluster, Node, three_nodes, until
from tests.support.histories import Kind, Outcome
from tests.support.job_clients import JobClients, careful_session
from tests.support.linearizability import check

CLIENTS = 8
JOBS = 12
READS_BETWEEN = 100


async def test_every_history_of_a_job_has_an_order_though_members_die(tmp_path: Path) -> None:
    """G3, G4: through the death of a leader, of a follower, and a leader that was paused."""
    async with three_nodes(tmp_path) as cluster, careful_session() as session:
        away: set[Node] = set()
        # A client may ask a member that is away as well.
        chance = random.Random(1)

        def usable() -> list[Node]:
            rest = cluster.others(*away)
            return cluster.nodes if chance.random() < 0.05 else rest

        clients = JobClients(session, usable, random.Random(2), jobs=JOBS)
        working = asyncio.create_task(clients.run(CLIENTS))
        try:
            await reads_go_on(clients)
            leader = await cluster.leader()
            await die_and_return(cluster, clients, away, leader)
            follower = cluster.others(await cluster.leader())[0]
            await die_and_return(cluster, clients, away, follower)
            await pause_and_return(cluster, clients, away, await cluster.leader())
        finally:
            clients.stop()
            await working
        await clients.read_all()
        operations = clients.operations
        check(operations)
        for kind in Kind:
            assert any(one.kind is kind and one.outcome is Outcome.DONE for one in operations)
        assert any(one.outcome is Outcome.MISMATCH for one in operations)


async def reads_go_on(clients: JobClients) -> None:
    """Wait until some more reads have been answered."""

    def count() -> int:
        return sum(
            one.kind is Kind.READ and one.outcome is Outcome.DONE for one in clients.operations
        )

    before = count()

    async def some_more() -> bool:
        return count() >= before + READS_BETWEEN

    await until(some_more, "reads are answered")


async def die_and_return(
    cluster: Cluster, clients: JobClients, away: set[Node], node: Node
) -> None:
    away.add(node)
    await node.kill()
    await reads_go_on(clients)
    await cluster.restart(node)
    await cluster.ready(node)
    away.discard(node)
    await reads_go_on(clients)


async def pause_and_return(
    cluster: Cluster, clients: JobClients, away: set[Node], node: Node
) -> None:
    away.add(node)
    node.process.send(signal.SIGSTOP)
    try:
        await reads_go_on(clients)
    finally:
        node.process.send(signal.SIGCONT)
    away.discard(node)
    await reads_go_on(clients)
