"""A member whose state is not that of the others stops, stays stopped, and harms nobody."""

from __future__ import annotations

import json
from pathlib import Path

from node.boot import EXIT_QUARANTINED
from node.quarantine import MARKER
from storage import keys
from storage.lmdb_store import LmdbStore
from tests.support.cluster import Cluster, Node, three_nodes, until

JOBS = 20


def damage(node: Node) -> None:
    """Change one byte of one job's definition where it lies, as a bad disk would."""
    store = LmdbStore(node.data_dir / "state")
    try:
        (key, value), *_ = store.scan(keys.JOB, keys.after(keys.JOB), 1, reverse=True)
        place = value.index(b"as it was")
        store.put(key, value[:place] + b"AS" + value[place + 2 :])
        store.flush()
    finally:
        store.close()


async def exit_status(cluster: Cluster, node: Node) -> int:
    """Wait for the end of a node that was restarted, and return its status."""
    await node.process.dead()
    return cluster.status_of(node)


async def test_a_member_with_a_damaged_state_goes_into_quarantine(tmp_path: Path) -> None:
    """G13: a value that rotted on one disk is found; that member stops, and only that one."""
    async with three_nodes(tmp_path) as cluster:
        leader = await cluster.leader()
        victim, other = cluster.others(leader)
        for number in range(JOBS):
            await cluster.write("/v1/jobs", job(number), leader)
        await cluster.agree_on_state()
        await victim.kill()
        damage(victim)

        await cluster.restart(victim)
        assert await exit_status(cluster, victim) == EXIT_QUARANTINED
        report = json.loads((victim.data_dir / MARKER).read_text())
        assert report["member"] == victim.name
        index = max(report["own_marks"], key=int)
        theirs = {marks[index] for marks in report["marks_of_others"].values() if index in marks}
        assert report["own_marks"][index] not in theirs

        await the_others_go_on(cluster, leader, other)
        await it_is_refused_until_the_report_is_taken_away(cluster, victim)
        await the_others_go_on(cluster, leader, other)


async def the_others_go_on(cluster: Cluster, leader: Node, other: Node) -> None:
    """They take writes, agree with each other, and are ready."""
    await cluster.ready(leader, other)
    name = f"after-{len(await other.job_names())}"
    created = await cluster.write("/v1/jobs", {**job(0), "name": name}, other)
    for node in (leader, other):
        assert f"{name}" in await node.job_names(created.index)


async def it_is_refused_until_the_report_is_taken_away(cluster: Cluster, victim: Node) -> None:
    """A restart ends at once and says what to do; without the report it is found out again."""
    marker = victim.data_dir / MARKER
    before = marker.read_bytes()
    await cluster.restart(victim)
    assert await exit_status(cluster, victim) == EXIT_QUARANTINED
    assert "remove the file" in cluster.log(victim.name).read_text(errors="replace")
    assert marker.read_bytes() == before

    marker.unlink()
    await cluster.restart(victim)

    async def found_again() -> bool:
        return marker.exists()

    await until(found_again, "the difference is found again")
    assert await exit_status(cluster, victim) == EXIT_QUARANTINED


def job(number: int) -> dict[str, object]:
    return {
        "name": f"job-{number}",
        "description": "as it was",
        "schedule": {"manual": True},
        "action": {"type": "noop"},
    }
