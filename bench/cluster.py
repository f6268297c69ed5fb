"""Three fresh members as subprocesses of a measurement, and their orderly end.

Every measurement gets a cluster of its own in an empty directory, so that no figure
depends on what ran before. Whatever was started is ended by its process id, also when the
measurement fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from bench.connection import Client, ConnectionBroken

MEMBERS = 3
DEV = (str(Path(sys.executable).with_name("cronclave")), "dev")
START_S_MAX = 60.0
STOP_S_MAX = 30.0
POLL_S = 0.05
# A development cluster takes consecutive ports; this many must be free.
PORTS_WANTED = 20
NO_ANSWER = (OSError, TimeoutError, ConnectionBroken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node, as `dev.json` describes it."""

    name: str
    url: str
    pid: int
    data_dir: str


class Cluster:
    """A development cluster; an async context manager.

    `settings` are variables of the members' environment beside their configuration.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(settings or {})}
        self._restarted: list[asyncio.subprocess.Process] = []
        self.directory = Path(tempfile.mkdtemp(prefix="cronclave-bench-"))
        self.members: list[Member] = []
        self.clients: list[Client] = []
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        # Whoever ends the measurement ends its members, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- Starting ------------------------------------------------------------------------

    async def _start(self) -> None:
        command = [*DEV, "--nodes", str(MEMBERS), "--no-samples"]
        command += ["--data", str(self.directory / "data"), "--port", str(free_port())]
        with self._log.open("wb") as log:
            self._process = await self._spawn(command, log)
        try:
            async with asyncio.timeout(START_S_MAX):
                await self._read_members()
                self.clients = [Client(member.url) for member in self.members]
                for client in self.clients:
                    await self._wait_ready(client)
        except TimeoutError:
            raise RuntimeError(f"The cluster was not ready in time:\n{self.log_tail()}") from None

    async def _read_members(self) -> None:
        described = self.directory / "data" / "dev.json"
        while True:
            self._check_lives()
            # The file may be seen half written.
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                found = json.loads(described.read_text())
                self.members = [_member(one) for one in found]
                return
            await asyncio.sleep(POLL_S)

    async def _wait_ready(self, client: Client) -> None:
        while True:
            self._check_lives()
            with contextlib.suppress(*NO_ANSWER):
                if (await client.send("GET", "/readyz", timeout_s=5)).accepted:
                    return
            await asyncio.sleep(POLL_S)

    def _check_lives(self) -> None:
        if self._process is None or self._process.returncode is not None:
            raise RuntimeError(f"The cluster did not start:\n{self.log_tail()}")

    @property
    def _log(self) -> Path:
        return self.directory / "dev.log"

    def log_tail(self) -> str:
        """Return the end of what the members wrote."""
        return self._log.read_text(errors="replace")[-3_000:] if self._log.exists() else ""

    # --- The leader ----------------------------------------------------------------------

    async def status(self, client: Client | None = None) -> Any:
        """Return one member's view of the cluster."""
        return await (client or self.clients[0]).get("/v1/cluster")

    async def leader(self) -> int:
        """Return the leader's position among the members."""
        while True:
            name = (await self.status())["leader"]
            for position, member in enumerate(self.members):
                if member.name == name:
                    return position
            await asyncio.sleep(POLL_S)

    def kill(self, position: int) -> None:
        """Kill a member at once, as a power cut would."""
        os.kill(self.members[position].pid, signal.SIGKILL)

    async def restart(self, position: int) -> None:
        """Start a member that was killed on what it has left behind."""
        member = self.members[position]
        config = str(self.directory / "data" / "cluster.toml")
        command = [str(Path(DEV[0])), "node", "--config", config, "--name", member.name]
        with self._log.open("ab") as log:
            process = await self._spawn(command, log)
        self._restarted.append(process)
        self.members[position] = replace(member, pid=process.pid)

    async def _spawn(self, command: Sequence[str], log: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment,
        )

    # --- Stopping ------------------------------------------------------------------------

    async def stop(self) -> None:
        """End every process of the cluster and remove its files."""
        for client in self.clients:
            client.close()
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()
        for member in self.members:
            self._end(member)
        for restarted in self._restarted:
            await restarted.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, member: Member) -> None:
        # The id may have been given to a stranger since the member died.
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{member.pid}/cmdline").read_bytes()
            if str(self.directory).encode() in command:
                os.kill(member.pid, signal.SIGKILL)


def _member(found: dict[str, Any]) -> Member:
    return Member(
        name=found["name"],
        url=found["url"].rstrip("/"),
        pid=found["pid"],
        data_dir=found["data_dir"],
    )


def free_port() -> int:
    """Return the first of a row of ports that nobody listens on."""
    first = 20_000 + (os.getpid() * 37 + time.monotonic_ns() // 1_000_000) % 10_000
    for start in range(first, 60_000, PORTS_WANTED):
        if all(_is_free(port) for port in range(start, start + PORTS_WANTED)):
            return start
    raise RuntimeError("There is no row of free ports.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
