"""A member that was away for longer than the log reaches back is handed the state itself."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import count
from pathlib import Path

import pytest

from tests.support.cluster import Answer, Cluster, Node, three_nodes, until

# The least that the configuration allows, and a transfer that takes many seconds: its middle
# must not be over before a slow machine has looked.
TAIL_ENTRIES = 1_000
BYTES_PER_S = 300_000
# A state of some megabytes, in entries enough to push what was before out of the tail.
PADDING = "x" * 1_900
ENTRIES = 2_600
WRITERS = 4


def job(name: str) -> dict[str, object]:
    return {
        "name": name,
        "description": PADDING,
        "schedule": {"manual": True},
        "action": {"type": "noop"},
    }


async def metric(node: Node, name: str) -> float:
    """Return one of a node's gauges."""
    text = (await node.request("GET", "/metrics")).expect(200).body
    found = re.search(rf"^cronclave_{name} (\S+)$", bytes(text).decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


async def write_past_the_tail(cluster: Cluster, nodes: list[Node], first_index: int) -> int:
    """Write until the log has gone on by so many entries; return the slowest write in ms."""
    numbers = count()
    slowest_ms = 0.0

    async def write() -> None:
        nonlocal slowest_ms
        index = 0
        while index < first_index + ENTRIES:
            number = next(numbers)
            began_s = time.monotonic()
            answer = await cluster.write("/v1/jobs", job(f"fill-{number}"), nodes[number % 2])
            slowest_ms = max(slowest_ms, (time.monotonic() - began_s) * 1000)
            index = answer.index

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    return round(slowest_ms)


async def receiving(node: Node) -> bool:
    """Tell whether a node is in the middle of its snapshot, and says so."""
    answer = await node.request("GET", "/readyz")
    if answer.status == 200 or "installing a snapshot" not in str(answer.body):
        return False
    return await metric(node, "snapshot_bytes_received") > BYTES_PER_S / 2


async def in_the_middle(node: Node) -> None:
    async def reached() -> bool:
        return await receiving(node)

    await until(reached, f"{node.name} is in the middle of a snapshot")


async def installed(node: Node) -> None:
    async def done() -> bool:
        return await metric(node, "snapshots_installed") >= 1

    await until(done, f"{node.name} has installed a snapshot")
    await until(node.ready, f"{node.name} is ready")


@pytest.fixture(autouse=True)
def short_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that is started here has these settings."""
    monkeypatch.setenv("CRONCLAVE_RAFT__JOURNAL_TAIL_ENTRIES", str(TAIL_ENTRIES))
    monkeypatch.setenv("CRONCLAVE_RAFT__SNAPSHOT_BYTES_PER_S", str(BYTES_PER_S))


async def test_a_member_that_was_away_for_long_rejoins_by_snapshot(tmp_path: Path) -> None:
    """Through the death of the receiver and of the leader, each in the middle of a transfer."""
    async with three_nodes(tmp_path) as cluster:
        leader = await cluster.leader()
        away, other = cluster.others(leader)
        before = await cluster.write("/v1/jobs", job("before"), leader)
        await away.kill()
        asked = await create_once(cluster, leader)
        await write_past_the_tail(cluster, [leader, other], before.index)

        await cluster.restart(away)
        await in_the_middle(away)
        await away.kill()
        await cluster.restart(away)
        await in_the_middle(away)
        sender = await leader_of(cluster, away)
        await sender.kill()
        (rest,) = cluster.others(away, sender)
        await installed(away)

        async def counted() -> bool:
            return await metric(rest, "snapshots_sent") >= 1

        await until(counted, f"{rest.name} has sent the snapshot that was installed")
        await cluster.restart(sender)
        await cluster.ready()
        await cluster.agree_on_state()
        # A7: the answer to a request is part of the state, whoever is asked again.
        again = await create_once(cluster, away)
        assert again.body["id"] == asked.body["id"]
        await runs_something(cluster, away)
        assert await metric(away, "snapshots_installed") >= 1


async def leader_of(cluster: Cluster, node: Node) -> Node:
    """Return who leads, as a node sees it that takes a snapshot from there."""

    async def known() -> str | None:
        leader: str | None = (await node.status())["leader"]
        return leader

    return cluster.named(await until(known, f"{node.name} knows a leader"))


async def create_once(cluster: Cluster, node: Node) -> Answer:
    """Ask a node for one and the same job, under one and the same key."""
    key = "a-key-of-its-own"
    return await cluster.write("/v1/jobs", job("while-away"), node, key=key, alone=True)


async def runs_something(cluster: Cluster, node: Node) -> None:
    """The node that was away takes its share of new work."""
    numbers = count()

    async def it_ran() -> bool:
        document = job(f"again-{next(numbers)}")
        created = (await cluster.write("/v1/jobs", document, node)).body["id"]
        started = await cluster.write(f"/v1/jobs/{created}/run", {}, node)
        return bool((await node.ended(started.body["id"]))["member"] == node.name)

    await until(it_ran, f"{node.name} runs something again")
