"""Without a majority a node says so: it answers what it knows, and promises nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.cluster import Node, three_nodes, until


def job(name: str) -> dict[str, object]:
    return {"name": name, "schedule": {"manual": True}, "action": {"type": "noop"}}


async def refused(node: Node, name: str) -> None:
    """Ask for a job, which is refused for want of a quorum."""
    answer = (await node.request("POST", "/v1/jobs", job(name))).expect(503)
    assert answer.body["code"] == "no_quorum"
    assert int(answer.headers["Retry-After"]) > 0


async def test_without_a_quorum_reads_are_stale_and_writes_are_refused(tmp_path: Path) -> None:
    """G2, G12: two of three are dead; one comes back, and writing goes on by itself."""
    async with three_nodes(tmp_path) as cluster, asyncio.TaskGroup() as tasks:
        created = await cluster.write("/v1/jobs", job("before"), cluster.nodes[0])
        path = f"/v1/jobs/{created.body['id']}"
        leader = await cluster.leader()
        last, second = cluster.others(leader)
        assert "before" in await last.job_names(created.index)
        await leader.kill()
        await second.kill()
        # It is on its way while the majority goes, so that nobody can foretell its end.
        doubtful = tasks.create_task(last.request("POST", "/v1/jobs", job("doubtful")))

        async def stale() -> bool:
            answer = (await last.request("GET", path)).expect(200)
            return answer.headers.get("X-Cronclave-Stale") == "true"

        await until(stale, "the node says that what it shows may be stale")
        await refused(last, "refused")
        read = await last.request("GET", path)
        assert (read.status, read.body["name"]) == (200, "before")
        (await last.request("GET", f"{path}?consistency=linearizable")).expect(503)
        (await last.request("GET", "/readyz")).expect(503)
        (await last.request("GET", "/healthz")).expect(200)

        await cluster.restart(second)
        after = await cluster.write("/v1/jobs", job("after"), last)
        status = (await doubtful).expect(201, 503, 504).status
        for node in (last, second):
            names = await node.job_names(after.index)
            assert {"before", "after"} <= names
            assert "refused" not in names
            # What was answered is true; only 504 promises nothing.
            assert status == 504 or ("doubtful" in names) == (status == 201)

        async def fresh() -> bool:
            answer = (await last.request("GET", path)).expect(200)
            return "X-Cronclave-Stale" not in answer.headers

        await until(fresh, "the node shows what is true again")
