"""A power loss of the whole cluster costs nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.support.cluster import GONE, Cluster, Node, three_nodes, until

JOBS_FIRST = 60


async def write_until_dead(node: Node, acknowledged: set[str]) -> None:
    """Create jobs one after the other, and remember which were acknowledged."""
    number = 0
    while True:
        name = f"{node.name}-{number}"
        document = {"name": name, "schedule": {"every": "1h"}, "action": {"type": "noop"}}
        number += 1
        try:
            answer = await node.request("POST", "/v1/jobs", document)
        except GONE:
            if not node.process.alive:
                return
            continue
        if answer.status == 201:
            acknowledged.add(name)


async def kill_all(cluster: Cluster) -> None:
    """Kill all nodes as nearly at the same instant as signals allow."""
    for node in cluster.nodes:
        node.process.send(signal.SIGKILL)
    for node in cluster.nodes:
        await node.process.dead()


async def test_all_that_was_acknowledged_outlives_the_death_of_all(tmp_path: Path) -> None:
    """G1, G13, G14: all are killed while they write; all are there again, and agree."""
    async with three_nodes(tmp_path) as cluster:
        acknowledged: set[str] = set()

        async def enough() -> bool:
            return len(acknowledged) >= JOBS_FIRST

        async with asyncio.TaskGroup() as writers:
            for node in cluster.nodes:
                writers.create_task(write_until_dead(node, acknowledged))
            try:
                await until(enough, "some jobs are acknowledged")
            finally:
                await kill_all(cluster)
        await cluster.restart(*cluster.nodes)
        await cluster.ready()
        await cluster.agree_on_state()
        for node in cluster.nodes:
            assert acknowledged <= await node.job_names()
