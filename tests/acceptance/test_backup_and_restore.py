"""What a cluster was can be had again: from a file, or from what one node has left behind."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from pathlib import Path
from typing import Any

from consensus.state.restoration import INDEX_GAP
from tests.support.cluster import Cluster, Node, scheduled_seconds, three_nodes, until
from tests.support.restored_cluster import Said, cluster_in, command, member_options

JOBS_FIRST, JOBS_MORE = 40, 30
TICK = {"name": "tick", "schedule": {"every": "1s"}, "action": {"type": "noop"}}
SLEEP = {"type": "command", "argv": ["/bin/sleep", "600"]}
KEY = "once-and-for-all"
RESTORED = "restored from a backup"
OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "lost", "unknown")


async def create(cluster: Cluster, number: int) -> str:
    """Create a job through the nodes in turn; return its name."""
    document = {"name": f"job-{number}", "schedule": {"every": "1h"}, "action": {"type": "noop"}}
    await cluster.write("/v1/jobs", document, cluster.nodes[number % 3])
    return f"job-{number}"


async def start_sleeper(cluster: Cluster, name: str, delivery: str) -> str:
    """Start something that does not end by itself; return the run, once it runs."""
    document = {"name": name, "schedule": {"manual": True}, "action": SLEEP, "delivery": delivery}
    job = (await cluster.write("/v1/jobs", document, cluster.nodes[0])).body["id"]
    run = (await cluster.write(f"/v1/jobs/{job}/run", {}, cluster.nodes[0])).body["id"]

    async def runs() -> bool:
        return bool((await cluster.nodes[0].run(run))["state"] == "running")

    await until(runs, f"{name} runs")
    return str(run)


def in_the_background(*arguments: str | Path) -> asyncio.Task[Said]:
    return asyncio.create_task(asyncio.to_thread(command, *arguments))


async def all_runs(node: Node, query: str = "") -> list[Any]:
    """Return all runs that a node lists, page by page."""
    items: list[Any] = []
    cursor = ""
    while True:
        page = await node.get(f"/v1/runs?limit=1000{query}{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def test_a_cluster_is_restored_from_a_backup_that_was_made_under_load(
    tmp_path: Path,
) -> None:
    """G1, G2, G5, G10, G13: all that was acknowledged before it is there, and goes on."""
    file = tmp_path / "monday.backup"
    async with three_nodes(tmp_path) as old:
        tick = (await old.write("/v1/jobs", TICK, old.nodes[0])).body["id"]
        again = await start_sleeper(old, "again", "at_least_once")
        once = await start_sleeper(old, "once", "at_most_once")
        keyed = {"name": "keyed", "schedule": {"manual": True}, "action": {"type": "noop"}}
        keyed_id = (await old.write("/v1/jobs", keyed, old.nodes[1], key=KEY)).body["id"]
        before = {await create(old, number) for number in range(JOBS_FIRST)}
        leader = await old.leader()
        follower = old.others(leader)[0]
        backing_up = in_the_background("cluster", "backup", "--addr", follower.url, file)
        number = JOBS_FIRST
        while not backing_up.done() or number < JOBS_FIRST + JOBS_MORE:
            await create(old, number)
            number += 1
        said = await backing_up
        assert said.status == 0, said
        fences = [(await old.nodes[0].run(run))["fence"] for run in (again, once)]
        ticked = await ticks(old, tick)
        await stale_backup_says_so(old, leader, tmp_path / "stale.backup")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    backup = json.loads(command("cluster", "verify-backup", file, "-o", "json").out)
    place = tmp_path / "second" / "cluster"
    refused_if_damaged(file, tmp_path / "damaged.backup", place)
    said = command("cluster", "restore", file, "--dir", place, *member_options())
    assert (said.status, place.exists()) == (2, False), said
    gone = "--old-cluster-is-gone"
    said = command("cluster", "restore", file, "--dir", place, *member_options(), gone)
    assert said.status == 0, said
    async with cluster_in(place) as new:
        for node in new.nodes:
            assert before | {"tick", "again", "once", "keyed"} <= await node.job_names()
        status = await new.nodes[0].status()
        assert status["cluster"] == "dev-r1"
        assert status["applied_index"] > INDEX_GAP + backup["index"]
        assert status["counters"]["restorations"] == 1
        await live_runs_are_decided(new, again, once, max(fences))
        answer = await new.write("/v1/jobs", keyed, new.nodes[2], key=KEY)
        assert (answer.status, answer.body["id"]) == (201, keyed_id)
        await it_ticks_on(new, tick, ticked)
        await counters_are_right(new, tick)
        await new.agree_on_state()


async def stale_backup_says_so(old: Cluster, leader: Node, file: Path) -> None:
    """A node that is alone gives what it has, and the command says how old that is."""
    alone, *others = [leader, *old.others(leader)]
    for node in others:
        await node.kill()

    async def knows() -> bool:
        return not (await alone.status())["has_quorum"]

    await until(knows, f"{alone.name} knows that it is alone")
    said = await in_the_background("cluster", "backup", "--addr", alone.url, file)
    assert said.status == 0, said
    assert "no contact with a majority of the members: the backup is as of 20" in said.err
    said = await in_the_background("cluster", "backup", "--addr", alone.url, file)
    assert said.status == 4, said
    assert "exists already" in said.err


def refused_if_damaged(file: Path, copy: Path, place: Path) -> None:
    """One bit is enough, and nothing is made."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    said = command("cluster", "verify-backup", copy)
    assert said.status == 1, said
    assert "checksum" in said.err
    gone = "--old-cluster-is-gone"
    said = command("cluster", "restore", copy, "--dir", place, *member_options(), gone)
    assert said.status == 1, said
    assert "checksum" in said.err
    assert not place.exists()


async def live_runs_are_decided(new: Cluster, again: str, once: str, fence: int) -> None:
    """What may be repeated is launched again, under a higher fence; what may not is unknown."""

    async def launched() -> Any:
        shown = await new.nodes[0].run(again)
        return shown if shown["state"] == "running" else None

    shown = await until(launched, "the run is launched again")
    (lost,) = shown["attempts"]
    assert (lost["outcome"], shown["attempt"]) == ("lost", 2)
    assert RESTORED in lost["detail"]
    assert shown["fence"] > INDEX_GAP > fence
    await new.write(f"/v1/runs/{again}/cancel", {}, new.nodes[1])
    assert (await new.nodes[0].ended(again))["outcome"] == "cancelled"
    shown = await new.nodes[0].run(once)
    assert (shown["state"], shown["outcome"]) == ("ended", "unknown")
    assert RESTORED in shown["detail"]


async def ticks(cluster: Cluster, tick: str) -> list[int]:
    """Wait until the recurring job has some outcome, and return the times of all."""

    async def ticked() -> list[int]:
        return scheduled_seconds(await cluster.nodes[0].outcomes(tick))

    times = await until(ticked, "the recurring job has begun")
    assert isinstance(times, list)
    return times


async def it_ticks_on(new: Cluster, tick: str, before: list[int]) -> None:
    """Every second since the beginning has one outcome, also those in between."""

    async def ticked() -> bool:
        outcomes = await new.nodes[0].outcomes(tick)
        runs = [one for one in outcomes if one["kind"] == "run" and one["outcome"]]
        return max(scheduled_seconds(runs), default=0) > before[-1] + 3

    await until(ticked, "the recurring job goes on")
    times = scheduled_seconds(await new.nodes[0].outcomes(tick))
    assert times == list(range(before[0], times[-1] + 1))


async def counters_are_right(new: Cluster, tick: str) -> None:
    """What is kept is what counting gives, at one and the same index."""
    # While it ticks, a slow machine never looks twice at the same.
    await new.write(f"/v1/jobs/{tick}/pause", {}, new.nodes[0])

    async def counted() -> bool:
        node = new.nodes[0]
        first = await node.status()
        runs, jobs = await all_runs(node), await node.job_names()
        if (await node.status())["counters"] != first["counters"]:
            return False  # Something happened in between; the next look may be luckier.
        counters = first["counters"]
        assert counters["jobs"] == len(jobs)
        assert counters["runs"] == len(runs)
        for outcome in OUTCOMES:
            found = sum(run["outcome"] == outcome for run in runs)
            assert counters.get(f"runs.{outcome}", 0) == found, outcome
        assert counters["runs_live"] == sum(run["outcome"] is None for run in runs)
        return True

    await until(counted, "the counters are those of the records")


async def test_a_cluster_that_lost_its_majority_is_recovered_from_one_node(
    tmp_path: Path,
) -> None:
    """G1, G5: what the survivor has is there again, under a new identity, and it is said aloud."""
    async with three_nodes(tmp_path) as old:
        tick = (await old.write("/v1/jobs", TICK, old.nodes[0])).body["id"]
        before = {await create(old, number) for number in range(JOBS_FIRST)}
        await ticks(old, tick)
        survivor = await old.leader()
        running = command("cluster", "inspect", survivor.data_dir)
        assert running.status == 4, running
        assert "in use" in running.err
        for node in old.nodes:
            await node.kill()
        for node in old.others(survivor):
            shutil.rmtree(node.data_dir)
        inspected = command("cluster", "inspect", survivor.data_dir, "-o", "json")
        found = json.loads(inspected.out)
        assert (found["cluster"], found["member"]) == ("dev", survivor.name)
        assert found["last_index"] == found["applied_index"] + found["entries_in_doubt"]

        place = tmp_path / "second" / "cluster"
        recover: list[str | Path] = [
            "cluster",
            "recover",
            survivor.data_dir,
            "--dir",
            place,
            *member_options(),
        ]
        said = command(*recover, "--tail", "keep")
        assert said.status == 2, said
        assert "RECOVERY" in said.err
        assert "LOST" in said.err
        assert not place.exists()
        said = command(*recover, "--tail", "keep", "--yes-i-accept-data-loss")
        assert said.status == 0, said
        await old.restart(survivor)
        await survivor.process.dead()
        assert old.status_of(survivor) == 79
        assert "was made of this member's state" in old.log(survivor.name).read_text()
        async with cluster_in(place) as new:
            for node in new.nodes:
                assert before | {"tick"} <= await node.job_names()
            status = await new.nodes[0].status()
            assert status["cluster"] == "dev-r1"
            assert status["applied_index"] > INDEX_GAP + found["last_index"]
            times = scheduled_seconds(await new.nodes[0].outcomes(tick))
            await it_ticks_on(new, tick, times)
            await counters_are_right(new, tick)
            await new.agree_on_state()
