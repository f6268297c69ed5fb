"""A linearizable read shows all that was acknowledged before it, whoever is asked."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.support.cluster import PATIENCE_S, Answer, Cluster, Node, three_nodes, until

WRITES = 30


def job(name: str) -> dict[str, object]:
    return {"name": name, "schedule": {"manual": True}, "action": {"type": "noop"}}


def read(node: Node, name: str) -> asyncio.Task[Answer]:
    """Begin to read a job at a node."""
    path = f"/v1/jobs/default/{name}?consistency=linearizable"
    asked = node.request("GET", path, patience_s=PATIENCE_S)
    return asyncio.get_running_loop().create_task(asked)


async def shows(node: Node, name: str) -> None:
    """Ask until there is a leader who confirms the answer, which then shows the job."""

    async def answered() -> Answer | None:
        answer = await read(node, name)
        return None if answer.status == 503 else answer

    answer = await until(answered, f"{node.name} answers a linearizable read")
    assert (answer.status, answer.body["name"]) == (200, name)


async def test_a_write_through_one_node_is_seen_at_every_other(tmp_path: Path) -> None:
    """G3: with no index to carry along, and with a leader that hangs in between."""
    async with three_nodes(tmp_path) as cluster:
        for number in range(WRITES):
            writer = cluster.nodes[number % 3]
            await cluster.write("/v1/jobs", job(f"job-{number}"), writer)
            await asyncio.gather(*(shows(node, f"job-{number}") for node in cluster.nodes))
        await a_leader_that_hung_shows_what_its_successor_wrote(cluster)


async def a_leader_that_hung_shows_what_its_successor_wrote(cluster: Cluster) -> None:
    """The question waits in the socket of a stopped process, and is answered by a live one."""
    old = await cluster.leader()
    old.process.send(signal.SIGSTOP)
    try:
        other = cluster.others(old)[0]

        async def another_leads() -> bool:
            return (await other.status())["leader"] not in (None, old.name)

        await until(another_leads, "another node leads")
        asked = read(old, "late")
        await cluster.write("/v1/jobs", job("late"), other)
        await shows(other, "late")
        assert not asked.done()
    finally:
        old.process.send(signal.SIGCONT)
    # Asked before the job was written, and answered after that: it has no other answer.
    assert (await asked).status in (200, 503)
    await shows(old, "late")
