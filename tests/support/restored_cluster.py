"""A cluster that lies in a folder with its cluster.toml, started node by node."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.support.cluster import CRONCLAVE, REQUEST_S, Cluster, Node, free_port

NAMES = ("n1", "n2", "n3")
COMMAND_S_MAX = 240


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has printed, and how it ended."""

    status: int
    out: str
    err: str


def command(*arguments: str | Path, typed: str = "") -> Said:
    """Run the command line, without a terminal."""
    done = subprocess.run(
        [CRONCLAVE, *map(str, arguments)],
        input=typed,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def member_options() -> list[str]:
    """Return three members on the loopback address, on ports that are free now."""
    first = free_port() + len(NAMES)
    options = []
    for place, name in enumerate(NAMES):
        options += ["--member", f"{name}=127.0.0.1:{first + place}"]
    return options


@asynccontextmanager
async def cluster_in(directory: Path) -> AsyncIterator[Cluster]:
    """Start all members of the cluster in a folder, and wait until each is ready."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    config = directory / "cluster.toml"
    text = config.read_text()
    members = tomllib.loads(text)["cluster"]["members"]
    first = free_port()
    for place, member in enumerate(members):
        # The API's usual ports may be taken by somebody else's cluster.
        text = text.replace(f"http_port = {member['http_port']}", f"http_port = {first + place}")
    config.write_text(text)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        cluster = Cluster(directory, session)
        try:
            for place, member in enumerate(members):
                name = member["name"]
                entry = {
                    "name": name,
                    "url": f"http://127.0.0.1:{first + place}",
                    "data_dir": directory / "data" / name,
                    "pid": cluster.spawn(name).pid,
                }
                cluster.nodes.append(Node(session, entry))
            await cluster.ready()
            yield cluster
        except BaseException as error:
            error.add_note(cluster.last_words())
            raise
        finally:
            cluster.close()
