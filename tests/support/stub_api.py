"""A stand-in for a node's API: it answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that came in; header names are in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; a document is sent as JSON, bytes as they are."""

    document: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return (
            self.document
            if isinstance(self.document, bytes)
            else json.dumps(self.document).encode()
        )


def problem(status: int, code: str, detail: str = "", **more: object) -> Reply:
    """Return a problem document as the API writes it."""
    document = {"title": code.replace("_", " ").capitalize(), "status": status, "code": code}
    return Reply(document={**document, "detail": detail, **more}, status=status)


class StubApi:
    """The server's memory: its answers by method and path, and the requests so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._replies: dict[tuple[str, str], Callable[[Asked], Reply]] = {}

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Answer requests for a path: with each reply in turn, then with the last for ever."""
        left = list(replies)
        self.do(method, path, lambda _: left.pop(0) if len(left) > 1 else left[0])

    def do(self, method: str, path: str, answer: Callable[[Asked], Reply]) -> None:
        """Answer requests for a path with what a function returns."""
        self._replies[method, path] = answer

    def reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        answer = self._replies.get((asked.method, asked.path))
        return answer(asked) if answer else problem(404, "not_found", f"No {asked.path}.")


@contextmanager
def stub_api() -> Iterator[StubApi]:
    """Listen on a free port of the loopback address until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            asked = Asked(
                method=self.command,
                path=parts.path,
                query=parse_qsl(parts.query, keep_blank_values=True),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            reply = stub.reply(asked)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub = StubApi(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(POLL_S,))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
