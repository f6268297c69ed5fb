"""A development cluster from its start to its stop, in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from node.cli.addresses import Address
from node.cli.client import Client
from node.cli.cluster_init import AUTHORITY, FILE
from node.cli.dev_layout import HOST, DevNode, Layout, check_unused, write_state
from node.cli.dev_processes import Processes, ending, log_tail
from node.cli.dev_samples import NAMESPACE, create_samples
from node.cli.exits import CONFLICT, INTERRUPTED, OK, TIMEOUT, CommandFailed
from node.cli.output import say
from storage.clock import Environment

READY_S_MAX = 60.0
READY_POLL_S = 0.1
PROBE_S_MAX = 1.0
READY = 200
# What these sections say differs between the nodes or is what `dev` decides.
VARIABLES_DROPPED = (
    "CRONCLAVE_CLUSTER__",
    "CRONCLAVE_NODE__",
    "CRONCLAVE_HTTP__",
    "CRONCLAVE_TLS__",
)

NodeArguments = Callable[[Path, str], Sequence[str]]


def node_arguments(config_file: Path, name: str) -> Sequence[str]:
    """Return the command line of one node, with the interpreter that runs this one."""
    # -P: the folder that `dev` is called in must not be searched for a package `node`.
    program = (sys.executable, "-P", "-m", "node.cli")
    return (*program, "node", "--config", str(config_file), "--name", name)


class DevCluster:
    """The nodes of one layout, as children of this process."""

    def __init__(
        self, layout: Layout, environment: Environment, arguments: NodeArguments = node_arguments
    ) -> None:
        self._layout = layout
        self._environment = environment
        self._arguments = arguments
        self._processes = Processes(environment)

    def run(self, *, samples: bool) -> int:
        """Start the nodes, stay until asked to stop, stop them; return the exit status.

        Raises:
            CommandFailed: they cannot be started, or do not get ready.
        """
        with self._alone(), self._processes.receiving_signals():
            check_unused(self._layout)
            self._layout.state_file.unlink(missing_ok=True)
            try:
                self._start()
                if not self._wait_ready():
                    return INTERRUPTED
                write_state(self._layout, self._processes.pids)
                self._welcome(samples=samples)
                self._watch()
            finally:
                self._stop()
                self._layout.state_file.unlink(missing_ok=True)
        return OK

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder, so that no second `cronclave dev` works in it."""
        with (self._layout.directory / "dev.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandFailed(
                    f"Another `cronclave dev` works in {self._layout.directory}; stop that one, "
                    "or use another --data and --port.",
                    CONFLICT,
                ) from None
            yield

    def _start(self) -> None:
        environ = _node_environment(os.environ)
        for node in self._layout.nodes:
            argv = self._arguments(self._layout.config_file, node.name)
            self._processes.start(node.name, argv, node.log, environ)
        tell(f"Starting {len(self._layout.nodes)} nodes in {self._layout.directory} ...")

    def _wait_ready(self) -> bool:
        """Return True once every node is ready, False if a stop was asked for before."""
        until_s = self._environment.monotonic_s() + READY_S_MAX
        waiting = {node.name: node for node in self._layout.nodes}
        while waiting:
            for name, status in self._processes.wait(READY_POLL_S).items():
                log = self._node(name).log
                raise CommandFailed(
                    f"Node {name} {ending(status)} before it was ready. The end of {log}:\n"
                    f"{log_tail(log)}"
                )
            if self._processes.stops_asked:
                return False
            waiting = {name: node for name, node in waiting.items() if not is_ready(node)}
            if waiting and self._environment.monotonic_s() > until_s:
                raise CommandFailed(_not_ready(waiting), TIMEOUT)
        return True

    def _watch(self) -> None:
        """Report nodes that end by themselves, until a stop is asked for."""
        while not self._processes.stops_asked:
            for name, status in self._processes.wait(None).items():
                node = self._node(name)
                tell(
                    f"Node {name} {ending(status)}; the others go on. Its log: {node.log}\n"
                    f"Start it again, in another terminal:\n  {self._restart(name)}"
                )

    def _stop(self) -> None:
        running = len(self._processes.pids)
        if not running:
            return
        tell(f"Stopping {running} nodes ... (Ctrl-C again kills them)")
        for name, by_itself in self._processes.stop_all():
            tell(f"  {name} {'has stopped' if by_itself else 'was killed'}")
        tell(f"All nodes have stopped. Their data stays in {self._layout.directory}.")

    def _node(self, name: str) -> DevNode:
        return next(node for node in self._layout.nodes if node.name == name)

    def _restart(self, name: str) -> str:
        config = self._layout.config_file
        return f"{program()} node --config {shlex.quote(str(config))} --name {name}"

    def _welcome(self, *, samples: bool) -> None:
        addresses = [Address(HOST, node.http_port) for node in self._layout.nodes]
        if samples:
            self._create_samples(addresses)
        pids = self._processes.pids
        for node in self._layout.nodes:
            # A node may have died since; the watch reports it.
            click.echo(f"{node.name}  {node.url}  pid {pids.get(node.name, '-')}")
        sys.stdout.flush()
        tell(self._hints(samples=samples))

    def _create_samples(self, addresses: Sequence[Address]) -> None:
        client = Client(addresses, self._environment)
        try:
            count = create_samples(client, self._environment, str(addresses[0]))
        except CommandFailed as failure:
            tell(f"The sample jobs could not be created: {failure}")
        else:
            tell(f"{count} sample jobs were created in the namespace {NAMESPACE}.")

    def _hints(self, *, samples: bool) -> str:
        name, nodes = program(), self._layout.nodes
        first = nodes[0]
        lines = [
            "",
            "Ready. In another terminal:",
            f"  export CRONCLAVE_ADDR={','.join(node.url for node in nodes)}",
            f"  {name} job create hello --every 10s -- echo hello",
            f"  {name} job list",
            f"  {name} run list",
        ]
        if samples:
            lines.append(f"  {name} job run {NAMESPACE}/by-hand --wait")
        if len(nodes) > 1:
            pid = self._processes.pids.get(first.name)
            lines.append(f"  kill -9 {pid}    # {first.name} dies, the others take over its jobs")
        more = growth(name, self._layout.directory, nodes, first.name)
        lines += ["", "One more node, and one less:", *more]
        lines += ["", "Stop with Ctrl-C."]
        return "\n".join(lines)


def growth(command: str, directory: Path, nodes: Sequence[DevNode], leaving: str) -> list[str]:
    """Return the commands with which a development cluster gets another node, and loses one."""
    new = f"n{len(nodes) + 1}"
    http_port = max(max(node.http_port, node.peer_port) for node in nodes) + 1
    place = directory / "joined" / new
    authority, folder, file = (
        shlex.quote(str(path)) for path in (directory / AUTHORITY, place, place / FILE)
    )
    return [
        f"  T=$({command} cluster token {new} --authority {authority})",
        f"  {command} cluster join $T --name {new} --address {HOST}:{http_port + 1} "
        f"--http-port {http_port} --dir {folder}",
        f"  {command} node --config {file}",
        f"  {command} cluster remove {leaving}",
    ]


def tell(message: str) -> None:
    """Say something, unless nobody is there any more: a closed terminal must not stop a stop."""
    with contextlib.suppress(OSError):
        say(message)


def _node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the nodes, without what would make them all alike."""
    return {
        name: value for name, value in environ.items() if not name.startswith(VARIABLES_DROPPED)
    }


def is_ready(node: DevNode) -> bool:
    """Ask a node whether it is ready; one that does not answer is not."""
    connection = http.client.HTTPConnection(HOST, node.http_port, timeout=PROBE_S_MAX)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == READY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _not_ready(waiting: Mapping[str, DevNode]) -> str:
    parts = [f"After {READY_S_MAX:.0f} s these nodes are not ready: {', '.join(waiting)}."]
    parts += [f"The end of {node.log}:\n{log_tail(node.log)}" for node in waiting.values()]
    return "\n".join(parts)


def program() -> str:
    """Return how a user can call this program: by name if it is found, else by its path."""
    import shutil  # noqa: PLC0415

    own = Path(sys.executable).parent / "cronclave"
    found = shutil.which("cronclave")
    if found is not None and Path(found).absolute() == own.absolute():
        return "cronclave"
    if own.exists():
        return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))
    return f"{shlex.quote(sys.executable)} -m node.cli"
