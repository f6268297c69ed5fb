"""A small HTTP client for load: one request at a time on a connection that stays open.

The load generator shares its two cores with the members that it measures, so each request
has to cost it little: the request is one write, the answer is cut at its Content-Length,
and JSON is read only by whoever wants to see it.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
CONNECT_S = 5.0
HEAD_END = b"\r\n\r\n"
WITHOUT_BODY = (204, 304)

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Answer(NamedTuple):
    """The status and the body of an answer."""

    status: int
    body: bytes

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the parsed body."""
        return _decode(self.body)


class ConnectionBroken(Exception):
    """The connection ended before its answer was complete."""


class Connection(asyncio.Protocol):
    """One connection; a request may be sent when the answer before it has come."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._status = 0
        self._wanted: int | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = JSON
    ) -> Answer:
        """Send a request and return its answer.

        Raises:
            ConnectionBroken: the other side went away; whether it acted is unknown.
        """
        if self._transport is None or not self.usable:
            raise ConnectionBroken(f"{self._host} has closed the connection.")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(self._message(method, path, body, content_type))
        try:
            return await self._waiting
        except asyncio.CancelledError:
            # The answer that still comes must not be taken for that of the next request.
            self.close()
            raise

    def _message(self, method: str, path: str, body: bytes, content_type: str) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if method != "GET":
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop have the interface without being of the class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._wanted is None and not self._read_head():
            return
        assert self._wanted is not None
        if len(self._received) < self._wanted:
            return
        body = bytes(self._received[: self._wanted])
        del self._received[: self._wanted]
        self._wanted = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(self._status, body))

    def _read_head(self) -> bool:
        end = self._received.find(HEAD_END)
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        del self._received[: end + len(HEAD_END)]
        self._status = int(head[9:12])
        _, found, rest = head.partition(b"\r\ncontent-length:")
        if not found and self._status not in WITHOUT_BODY:
            self.connection_lost(ConnectionBroken("An answer without a Content-Length came."))
            self.close()
            return False
        self._wanted = int(rest.partition(b"\r\n")[0]) if found else 0
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionBroken(f"{self._host}: {exc or 'closed'}"))


async def connect(url: str) -> Connection:
    """Open a connection to a member's address such as `http://127.0.0.1:8901`.

    Raises:
        OSError, TimeoutError: nobody answers there.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    async with asyncio.timeout(CONNECT_S):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(f"{host}:{port}"), host, port
        )
    return connection


class Client:
    """A member's address with as many connections as there are requests at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._free: list[Connection] = []

    async def send(
        self,
        method: str,
        path: str,
        payload: object = None,
        *,
        content_type: str = JSON,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send a request with a JSON body, unless `payload` is None, and return the answer.

        Raises:
            OSError, TimeoutError, ConnectionBroken: there was no answer.
        """
        body = b"" if payload is None else encode(payload)
        async with asyncio.timeout(timeout_s):
            connection = await self._connection()
            answer = await connection.request(method, path, body, content_type)
        self._free.append(connection)
        return answer

    async def get(self, path: str) -> Any:
        """Return the JSON under a path; anything but a good answer ends the measurement."""
        answer = await self.send("GET", path)
        if not answer.accepted:
            raise RuntimeError(f"GET {path} at {self.url}: {answer.status} {answer.body[:300]!r}")
        return answer.json()

    async def _connection(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return await connect(self.url)

    def close(self) -> None:
        for connection in self._free:
            connection.close()
        self._free.clear()
