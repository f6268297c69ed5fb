"""What a development cluster has on disk: its folder, ports, certificates and configuration.

Everything is made once and then read again, so that a second `cronclave dev` on the same
folder goes on with the same cluster. Members listen for each other on the ports behind those
of their APIs: these are below the range that the system hands out to others, so they are
likely to be free the next time as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.cli.cluster_init import FILE, make_cluster
from node.cli.exits import CONFLICT, USAGE, CommandFailed
from node.config import Config, ConfigRefused, load_config
from node.config.settings import PORT_MAX, MemberConfig
from storage.clock import Environment

HOST = "127.0.0.1"
PORT = 8901
NODES = 3
CLUSTER = "dev"
STATE_FILE = "dev.json"
LOG_FILE = "node.log"
PORTS_TRIED_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DevNode:
    """One node of the cluster."""

    name: str
    http_port: int
    peer_port: int
    data_dir: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def log(self) -> Path:
        return self.data_dir / LOG_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A development cluster as it lies in its folder."""

    directory: Path
    nodes: tuple[DevNode, ...]

    @property
    def config_file(self) -> Path:
        return self.directory / FILE

    @property
    def state_file(self) -> Path:
        return self.directory / STATE_FILE


def prepare(directory: Path, count: int | None, port: int | None, env: Environment) -> Layout:
    """Return the cluster in a folder, which is made if there is none yet.

    `count` and `port` (of the first node's API) are for a new cluster; None means the usual.

    Raises:
        CommandFailed: the folder holds another cluster, or cannot be used.
    """
    if not (directory / FILE).exists():
        _make(directory, count or NODES, port or PORT, env)
    layout = _read(directory)
    _check_same(layout, count, port)
    return layout


def _make(directory: Path, count: int, port: int, env: Environment) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise CommandFailed(
                f"{directory} is not empty and holds no {FILE}; empty it, or use another --data.",
                CONFLICT,
            )
        # What comes in here is nobody's source code.
        (directory / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{directory} cannot be used: {error.strerror}.") from None
    make_cluster(directory, CLUSTER, _new_members(count, port), "{name}", env)


def _new_members(count: int, port: int) -> list[MemberConfig]:
    peer_ports = _free_ports(count, port + count)
    return [
        MemberConfig(name=f"n{number + 1}", address=f"{HOST}:{peer}", http_port=port + number)
        for number, peer in enumerate(peer_ports)
    ]


def _free_ports(count: int, first: int) -> list[int]:
    candidates = range(first, min(first + PORTS_TRIED_MAX, PORT_MAX + 1))
    found: list[int] = []
    for candidate in candidates:
        if len(found) < count and is_free(candidate):
            found.append(candidate)
    if len(found) < count:
        raise CommandFailed(f"There are not enough free ports behind {first}; use another --port.")
    return found


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _read(directory: Path) -> Layout:
    file = directory / FILE
    nodes: list[DevNode] = []
    try:
        members: Sequence[MemberConfig] = load_config(file, {}, {"node.name": "n1"}).cluster.members
        for member in members:
            config: Config = load_config(file, {}, {"node.name": member.name})
            nodes.append(_node(config))
    except ConfigRefused as refused:
        raise CommandFailed(f"{file} cannot be used:\n{refused}") from None
    return Layout(directory=directory, nodes=tuple(nodes))


def _node(config: Config) -> DevNode:
    return DevNode(
        name=config.node.name,
        http_port=config.http.port,
        peer_port=int(config.member.address.rpartition(":")[2]),
        data_dir=config.node.data_dir,
    )


def _check_same(layout: Layout, count: int | None, port: int | None) -> None:
    held, first = len(layout.nodes), layout.nodes[0].http_port
    other = "or begin anew with another --data"
    if count not in (None, held):
        raise CommandFailed(
            f"{layout.directory} holds a cluster of {held} nodes; use --nodes {held}, {other}.",
            USAGE,
        )
    if port not in (None, first):
        raise CommandFailed(
            f"The cluster in {layout.directory} begins at port {first}; use --port {first}, "
            f"change http_port in {layout.config_file}, {other}.",
            USAGE,
        )


def check_unused(layout: Layout) -> None:
    """Refuse to start nodes that still run, or whose ports somebody else has.

    Raises:
        CommandFailed: it says which, and what to do.
    """
    pids = {entry["name"]: entry["pid"] for entry in read_state(layout)}
    for node in layout.nodes:
        if _is_locked(node.data_dir / "node.lock"):
            pid = pids.get(node.name, "its process id")
            raise CommandFailed(
                f"Node {node.name} of an earlier `cronclave dev` still runs; stop it first: "
                f"kill {pid}",
                CONFLICT,
            )
        for port in (node.http_port, node.peer_port):
            if not is_free(port):
                raise CommandFailed(
                    f"Port {port} of node {node.name} is taken by another process. Stop that, "
                    "or run another cluster: cronclave dev --data OTHER --port OTHER",
                    CONFLICT,
                )


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_state(layout: Layout) -> list[dict[str, Any]]:
    """Return what the last `cronclave dev` wrote about its processes, if it is still there."""
    try:
        state = json.loads(layout.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    known = isinstance(state, list) and all(
        isinstance(entry, dict) and {"name", "pid"} <= entry.keys() for entry in state
    )
    return state if known else []


def write_state(layout: Layout, pids: dict[str, int]) -> None:
    """Write name, address, process and folder of each node, all at once."""
    entries = [
        {"name": node.name, "url": node.url, "pid": pids[node.name], "data_dir": str(node.data_dir)}
        for node in layout.nodes
    ]
    draft = layout.directory / f"{STATE_FILE}.new"
    draft.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, layout.state_file)
