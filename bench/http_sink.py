"""A server that answers every request at once: what HTTP launches are sent to.

It stands in the measurement's own process, reads no more of a request than its head and
its length, and counts.
"""

from __future__ import annotations

import asyncio
from typing import Self, cast

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
HEAD_END = b"\r\n\r\n"


class _Sinking(asyncio.Protocol):
    def __init__(self, sink: HttpSink) -> None:
        self._sink = sink
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop have the interface without being of the class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(HEAD_END)) >= 0:
            length = _length(bytes(self._received[:end]))
            if len(self._received) < end + len(HEAD_END) + length:
                return
            del self._received[: end + len(HEAD_END) + length]
            self._sink.requests += 1
            self._transport.write(ANSWER)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


class HttpSink:
    """The server; an async context manager."""

    def __init__(self) -> None:
        self.requests = 0
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Sinking(self), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
