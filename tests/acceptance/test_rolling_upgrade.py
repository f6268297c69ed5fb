"""A cluster changes its release one node at a time, without a pause and without a way back."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consensus import features
from tests.support.checkout import HASTY_RELEASE, NEXT_RELEASE, make_checkout
from tests.support.cluster import (
    GONE,
    POLL_S,
    Cluster,
    Node,
    scheduled_seconds,
    three_nodes,
    until,
)

OLD, NEW = features.CURRENT, features.CURRENT + 1
TICK = {"name": "tick", "schedule": {"every": "1s"}, "action": {"type": "noop"}}
# Of a run by hand, before and after.
PRIORITY, PRIORITY_NEXT = 50, 100


class Load:
    """Clients that create and start jobs through every node, for as long as it is open."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acknowledged: set[str] = set()
        self.started: dict[str, str] = {}

    async def write(self, node: Node) -> None:
        number = 0
        while True:
            number += 1
            name = f"{node.name}-{number}"
            document = {"name": name, "schedule": {"manual": True}, "action": {"type": "noop"}}
            try:
                answer = await node.request("POST", "/v1/jobs", document)
                if answer.status != 201:
                    continue
                self.acknowledged.add(name)
                path = f"/v1/jobs/{answer.body['id']}/run"
                answer = await node.request("POST", path, {})
            except GONE:
                await asyncio.sleep(POLL_S)  # a node that starts needs the machine for itself
                continue
            if answer.status == 202:
                self.started[name] = answer.body["id"]

    async def more(self, count: int = 30) -> None:
        """Wait until so many more jobs were acknowledged."""
        before = len(self.acknowledged)

        async def written() -> bool:
            return len(self.acknowledged) >= before + count

        await until(written, f"{count} more jobs are acknowledged")


@asynccontextmanager
async def load_on(cluster: Cluster) -> AsyncIterator[Load]:
    load = Load(cluster)
    tasks = [asyncio.create_task(load.write(node)) for node in cluster.nodes]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def levels(cluster: Cluster) -> list[int]:
    return [(await node.status())["feature_level"] for node in cluster.nodes]


async def all_announce(cluster: Cluster, wanted: dict[str, int]) -> None:
    """Wait until every node knows what every member's release supports."""

    async def known() -> bool:
        for node in cluster.nodes:
            found = (await node.get("/v1/members"))["items"]
            if {item["name"]: item["feature_level_supported"] for item in found} != wanted:
                return False
        return True

    await until(known, f"the members have announced {wanted}")


async def level_is(cluster: Cluster, level: int) -> None:
    async def reached() -> bool:
        return await levels(cluster) == [level] * len(cluster.nodes)

    await until(reached, f"all nodes are at level {level}")


async def upgrade(cluster: Cluster, node: Node, checkout: Path) -> None:
    """Stop a node as an operator does, and start the other program on its data."""
    await stop(node)
    await cluster.restart(node, checkout=checkout)
    await cluster.ready(node)


async def stop(node: Node) -> None:
    node.process.send(signal.SIGTERM)
    await node.process.dead()


async def manual_run(cluster: Cluster, node: Node, name: str) -> Any:
    """Create a job, start it by hand through a node, and return the run."""
    document = {"name": name, "schedule": {"manual": True}, "action": {"type": "noop"}}
    job = (await cluster.write("/v1/jobs", document, node)).body["id"]
    started = await cluster.write(f"/v1/jobs/{job}/run", {}, node)

    async def shown() -> Any:
        return await node.run(started.body["id"])

    return await until(shown, f"{node.name} shows the run of {name}")


async def test_a_cluster_is_upgraded_node_by_node_under_load(tmp_path: Path) -> None:
    """G1, G5, G13: the level waits for the last node, nothing is lost, and there is no way back."""
    checkout = make_checkout(tmp_path / "next", NEXT_RELEASE)
    async with three_nodes(tmp_path) as cluster:
        tick = (await cluster.write("/v1/jobs", TICK, cluster.nodes[0])).body["id"]
        async with load_on(cluster) as load:
            await upgrade_all(cluster, load, checkout)
        await nothing_was_lost(cluster, load, tick)


async def upgrade_all(cluster: Cluster, load: Load, checkout: Path) -> None:
    """Upgrade one node after the other, and try the way back when it is too late."""
    await load.more()
    await level_is(cluster, OLD)
    supported = {node.name: OLD for node in cluster.nodes}
    for node in cluster.nodes[:2]:
        await upgrade(cluster, node, checkout)
        supported[node.name] = NEW
        await all_announce(cluster, supported)
        await load.more()
    await nothing_new_happens(cluster, load)
    await upgrade(cluster, cluster.nodes[2], checkout)
    await level_is(cluster, NEW)
    await load.more()
    await the_new_is_used(cluster)

    last = cluster.nodes[2]
    await refused_with_the_old_release(cluster, last)
    await cluster.restart(last, checkout=checkout)
    await cluster.ready(last)
    await load.more()


async def nothing_new_happens(cluster: Cluster, load: Load) -> None:
    """While one node is of the old release, also a newer leader keeps to what it understands."""
    last = cluster.nodes[2]
    if await cluster.leader() is last:
        await stop(last)
        await cluster.restart(last)
        await cluster.ready(last)
    run = await manual_run(cluster, await cluster.leader(), "mixed")
    assert run["priority"] == PRIORITY
    await load.more()
    for node in cluster.nodes:
        status = await node.status()
        assert status["feature_level"] == OLD
        assert "remarks" not in status["counters"]


async def the_new_is_used(cluster: Cluster) -> None:
    """What the new release adds is there, on all nodes."""
    run = await manual_run(cluster, cluster.nodes[0], "after")
    assert run["priority"] == PRIORITY_NEXT

    async def remarks() -> bool:
        shown = [(await node.status())["counters"].get("remarks", 0) for node in cluster.nodes]
        return all(shown)

    await until(remarks, "the new command has been applied by all")
    metrics = (await cluster.nodes[0].request("GET", "/metrics")).expect(200).body.decode()
    assert f"cronclave_feature_level {NEW}.0" in metrics


async def refused_with_the_old_release(cluster: Cluster, node: Node) -> None:
    """It ends at once, says why, and has touched nothing."""
    await node.kill()
    said = output(cluster, node)
    await cluster.restart(node)
    await node.process.dead()
    words = output(cluster, node)[len(said) :]
    assert f"The cluster is at feature level {NEW}, and this release supports up to {OLD}" in words
    assert cluster.status_of(node) == 78


async def nothing_was_lost(cluster: Cluster, load: Load, tick: str) -> None:
    """Every acknowledged job is on every node, every started run ends, no second is missing."""
    for run in list(load.started.values())[::10]:
        await cluster.nodes[0].ended(run)
    acknowledged = set(load.acknowledged)
    for node in cluster.nodes:

        async def has_all(node: Node = node) -> bool:
            return acknowledged <= await node.job_names()

        await until(has_all, f"{node.name} has all jobs")
    times = scheduled_seconds(await cluster.nodes[0].outcomes(tick))
    assert times == list(range(times[0], times[-1] + 1))
    await cluster.agree_on_state()


async def test_an_entry_of_an_unknown_level_stops_a_node_for_good(tmp_path: Path) -> None:
    """It is named, starting again does not help, and the release that knows it goes on there."""
    checkout = make_checkout(tmp_path / "hasty", HASTY_RELEASE)
    async with three_nodes(tmp_path) as cluster:
        *hasty, last = cluster.nodes
        for node in cluster.nodes:
            await node.kill()
        await cluster.restart(*hasty, checkout=checkout)
        await cluster.ready(*hasty)
        stopped_at = set()
        for _ in range(2):
            said = output(cluster, last)
            await cluster.restart(last)
            await last.process.dead()
            assert cluster.status_of(last) == 70
            words = output(cluster, last)[len(said) :]
            (index,) = re.findall(rf"upgrade this member. \(index=(\d+), level={NEW}", words)[:1]
            stopped_at.add(index)
        assert len(stopped_at) == 1
        await cluster.restart(last, checkout=checkout)
        await cluster.ready(last)
        await cluster.agree_on_state()


def output(cluster: Cluster, node: Node) -> str:
    log = cluster.log(node.name)
    return log.read_text(errors="replace") if log.exists() else ""
