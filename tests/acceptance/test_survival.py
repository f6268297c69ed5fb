"""The promise of the first page: kill the leader in the middle, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster, Node, in_seconds, three_nodes, until
from tests.support.sink import Sink, http_sink

JOBS = 1_000
JOBS_BEFORE = 800  # the rest is created while there is no leader
FIRST_S, SPAN_S = 8.0, 30.0
WRITERS = 16
TICK_MS = 1_000


class Created:
    """What the cluster has acknowledged: ids by full name, and the highest index."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.index = 0


async def create(cluster: Cluster, sink: Sink, numbers: range, due_s: float, to: Created) -> None:
    """Create jobs of these numbers through all nodes, due one after the other."""
    gate = asyncio.Semaphore(WRITERS)
    step_s = SPAN_S / JOBS

    async def create_one(number: int, due: str) -> None:
        document = {
            "name": f"once-{number}",
            "schedule": {"at": due},
            "action": {"type": "http", "method": "POST", "url": f"{sink.url}/once"},
        }
        async with gate:
            answer = await cluster.write("/v1/jobs", document, cluster.nodes[number % 3])
        to.ids[f"default/once-{number}"] = answer.body["id"]
        to.index = max(to.index, answer.index)

    dues = [in_seconds(due_s + place * step_s) for place in range(len(numbers))]
    await asyncio.gather(*map(create_one, numbers, dues))


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def occurrences(outcomes: list[Any]) -> list[int]:
    """Return every nominal time that has an outcome, in order, as often as it has one."""
    times = []
    for outcome in outcomes:
        first_ms = milliseconds(outcome["scheduled_at"])
        times += [first_ms + TICK_MS * place for place in range(outcome.get("count", 1))]
    return sorted(times)


async def test_the_death_of_the_leader_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """G1, G5, G6, G11, G14: jobs go on without a node, and the node comes back by itself."""
    async with http_sink() as sink, three_nodes(tmp_path) as cluster:
        tick = await cluster.write(
            "/v1/jobs",
            {
                "name": "tick",
                "schedule": {"every": "1s"},
                "action": {"type": "http", "url": f"{sink.url}/tick"},
            },
            cluster.nodes[0],
        )
        created = Created()
        await create(cluster, sink, range(JOBS_BEFORE), FIRST_S, created)

        async def a_quarter_called() -> bool:
            return sink.jobs_called > JOBS / 4

        await until(a_quarter_called, "a quarter of the jobs was called")
        victim = await cluster.leader()
        await victim.kill()
        await create(cluster, sink, range(JOBS_BEFORE, JOBS), FIRST_S, created)
        assert len(created.ids) == JOBS

        await everything_was_called_once(cluster, sink, created)
        await ticks_have_no_gap(cluster, tick.body["id"], sink)

        await cluster.restart(victim)
        await cluster.ready(victim)
        for node in cluster.nodes:
            names = await node.job_names(created.index)
            assert {f"default/{name}" for name in names} == {*created.ids, "default/tick"}
        await cluster.agree_on_state()
        await runs_something(cluster, victim)


async def everything_was_called_once(cluster: Cluster, sink: Sink, created: Created) -> None:
    """A second call is allowed for what a dead node held, with a higher fence."""

    async def all_ended() -> bool:
        jobs: list[Any] = []
        page = await cluster.alive[0].get("/v1/jobs?limit=1000")
        jobs = [job for job in page["items"] if job["name"] != "tick"]
        return all((job["last_run"] or {}).get("outcome") == "succeeded" for job in jobs)

    await until(all_ended, "every job has succeeded")
    assert {*created.ids} == {*sink.deliveries} - {"default/tick"}
    for name, job in created.ids.items():
        fences = [delivery.fence for delivery in sink.deliveries[name]]
        assert fences == sorted(set(fences)), (name, fences)
        if len(fences) > 1:
            (outcome,) = await cluster.alive[0].outcomes(job)
            run = await cluster.alive[0].run(outcome["id"])
            lost = {one["fence"] for one in run["attempts"] if one["outcome"] == "lost"}
            assert {*fences[:-1]} <= lost, (name, fences, run)


async def ticks_have_no_gap(cluster: Cluster, job: str, sink: Sink) -> None:
    """Every second has exactly one outcome, and the ticking goes on."""
    before = len(sink.deliveries["default/tick"])

    async def goes_on() -> bool:
        return len(sink.deliveries["default/tick"]) > before + 1

    await until(goes_on, "the recurring job goes on")
    times = occurrences(await cluster.alive[0].outcomes(job))
    assert times == list(range(times[0], times[0] + TICK_MS * len(times), TICK_MS))


async def runs_something(cluster: Cluster, node: Node) -> None:
    """The node that was away takes its share of new work."""
    numbers = iter(range(10_000))

    async def it_ran() -> bool:
        document = {
            "name": f"again-{next(numbers)}",
            "schedule": {"manual": True},
            "action": {"type": "noop"},
        }
        job = (await cluster.write("/v1/jobs", document, node)).body["id"]
        started = await cluster.write(f"/v1/jobs/{job}/run", {}, node)
        return bool((await node.ended(started.body["id"]))["member"] == node.name)

    await until(it_ran, f"{node.name} runs something again")
