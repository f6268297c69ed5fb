"""Members come and go while the cluster is at work: three become five and three again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.cluster import Cluster, Node, three_nodes, until

WRITERS = 4
# As many writers as they are, they leave the machine time for what else goes on.
PAUSE_S = 0.05
EXIT_REMOVED = 80


class Load:
    """Clients that create jobs all the time, each until a node acknowledges it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.names: list[str] = []
        self.index = 0
        self._stopping = False
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            name = f"load-{writer}-{number}"
            document = {"name": name, "schedule": {"manual": True}, "action": {"type": "noop"}}
            nodes = self._cluster.nodes
            answer = await self._cluster.write("/v1/jobs", document, nodes[number % len(nodes)])
            self.names.append(name)
            await asyncio.sleep(PAUSE_S)
            self.index = max(self.index, answer.index)

    async def more(self, count: int) -> None:
        """Wait until so many more jobs are acknowledged; fail if a writer failed."""
        wanted = len(self.names) + count

        async def written() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return len(self.names) >= wanted

        await until(written, f"{count} more jobs are acknowledged")

    async def stop(self) -> None:
        """Finish what was begun."""
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def has_roles(cluster: Cluster, expected: dict[str, str]) -> None:
    async def found() -> bool:
        return await cluster.roles() == expected

    await until(found, f"the members are {expected}")


async def removed(cluster: Cluster, node: Node) -> None:
    """Remove a node, which ends by itself and says why, also when it is started again."""
    await cluster.command("remove", node.name, "--yes")
    await node.process.dead()
    cluster.retire(node)
    await cluster.restart(node)
    assert cluster.status_of(node) == EXIT_REMOVED
    assert "is no member of this cluster" in cluster.log(node.name).read_text()


async def test_three_become_five_and_three_again_under_load(tmp_path: Path) -> None:
    """No request fails that the documented rule does not carry through, and nothing is lost.

    Newcomers learn before they vote, what they are survives their deaths, the leader is
    removed like anybody else, and who was removed says so and stays away.
    """
    async with three_nodes(tmp_path) as cluster:
        load = Load(cluster)
        await load.more(10)
        for name in ("n4", "n5"):
            await cluster.ready(await cluster.join(name))
            await load.more(10)
        everybody = dict.fromkeys(("n1", "n2", "n3", "n4", "n5"), "voter")
        await has_roles(cluster, everybody)

        # Two of five may die, and come back as what they were.
        dead = [cluster.named("n4"), await cluster.leader()]
        for node in {node.name: node for node in dead}.values():
            await node.kill()
        await load.more(10)
        await cluster.restart(*{node.name: node for node in dead}.values())
        await cluster.ready()
        await has_roles(cluster, everybody)

        for _ in range(2):
            await removed(cluster, await cluster.leader())
            await load.more(10)
        await has_roles(cluster, dict.fromkeys([node.name for node in cluster.nodes], "voter"))

        await load.stop()
        for node in cluster.nodes:
            assert await node.job_names(load.index) >= set(load.names)
        await cluster.agree_on_state()


async def test_a_member_is_replaced_and_another_works_without_a_vote(tmp_path: Path) -> None:
    """A dead member goes when its successor has its place; a worker never has a vote."""
    async with three_nodes(tmp_path) as cluster:
        old = next(node for node in cluster.nodes if node is not cluster.nodes[0])
        await old.kill()
        await cluster.ready(await cluster.join("worker", "--nonvoting"))
        token = await cluster.command(
            "replace", old.name, "n9", "--authority", str(cluster.directory / "authority")
        )
        cluster.retire(old)
        await cluster.ready(await cluster.join("n9", token=token))
        kept = [node.name for node in cluster.nodes if node.name not in ("worker", "n9")]
        await has_roles(cluster, dict.fromkeys([*kept, "n9"], "voter") | {"worker": "nonvoting"})
        status = await cluster.nodes[0].status()
        assert sorted(status["voters"]) == sorted([*kept, "n9"])
        await cluster.agree_on_state()
