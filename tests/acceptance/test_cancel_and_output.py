"""A run belongs to the cluster: it is stopped and read through any node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.cluster import Answer, Cluster, Node, Process, three_nodes, until


async def run_command(cluster: Cluster, name: str, argv: list[str]) -> str:
    """Create a job with a command, start it through the first node, and return the run's id."""
    document = {
        "name": name,
        "schedule": {"manual": True},
        "action": {"type": "command", "argv": argv},
    }
    job = (await cluster.write("/v1/jobs", document, cluster.nodes[0])).body["id"]
    started = await cluster.write(f"/v1/jobs/{job}/run", {}, cluster.nodes[1])
    return str(started.body["id"])


async def test_a_command_is_cancelled_through_a_node_that_does_not_run_it(tmp_path: Path) -> None:
    """G10: the process dies, and every node tells how the run ended."""
    async with three_nodes(tmp_path) as cluster:
        number = tmp_path / "number"
        script = f'echo $$ > "{number}.new" && mv "{number}.new" "{number}" && sleep 600; true'
        run = await run_command(cluster, "long", ["/bin/sh", "-c", script])

        async def running() -> Any:
            shown = await cluster.nodes[0].run(run)
            return shown if shown["state"] == "running" and number.exists() else None

        owner = cluster.named((await until(running, "the command runs"))["member"])
        process = Process(int(number.read_text()))
        try:
            other = cluster.others(owner)[0]
            await cluster.write(f"/v1/runs/{run}/cancel", {}, other, alone=True)
            await process.dead()
        finally:
            process.close()
        for node in cluster.nodes:
            assert (await node.ended(run))["outcome"] == "cancelled"


async def read(node: Node, path: str, headers: dict[str, str]) -> bytes:
    """Return what a node shows at a path, as soon as it can."""

    async def shown() -> Answer:
        return (await node.request("GET", path, headers=headers)).expect(200)

    answer = await until(shown, f"{node.name} shows {path}")
    return bytes(answer.body)


async def test_the_output_of_a_command_is_the_same_on_every_node(tmp_path: Path) -> None:
    """What a command printed can be read wherever one asks, byte for byte."""
    async with three_nodes(tmp_path) as cluster:
        script = r"printf 'gr\303\274\303\237e\377\n'; seq 1 5000; echo oops >&2"
        expected = b"gr\xc3\xbc\xc3\x9fe\xff\n"
        expected += b"".join(b"%d\n" % number for number in range(1, 5_001)) + b"oops\n"
        run = await run_command(cluster, "talker", ["/bin/sh", "-c", script])
        path, raw = f"/v1/runs/{run}/output", {"Accept": "application/octet-stream"}
        for node in cluster.nodes:
            assert (await node.ended(run))["outcome"] == "succeeded"
            assert await read(node, path, raw) == expected
            assert await read(node, path, {}) == expected.decode(errors="replace").encode()
