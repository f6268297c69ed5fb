"""A node's HTTP server on a loopback port, in front of a cluster of one, and a client."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from api.application import make_application
from api.server import start_server
from tests.support.single import SingleCluster

VERSION = "0.1.0"


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> Any:
        """Check that this is a whole problem document, and return it."""
        assert self.status == status, self.body
        assert self.headers["Content-Type"] == "application/problem+json"
        found = self.json
        assert found["code"] == code
        assert found["status"] == status
        assert found["type"] == f"urn:cronclave:problem:{code}"
        assert found["title"]
        assert found["detail"]
        assert found["instance"].startswith("/")
        assert found["request_id"] == self.headers["X-Request-Id"]
        return found

    def pointers(self) -> set[str]:
        """Return where the faults are."""
        return {fault["pointer"] for fault in self.json["errors"]}


class ApiClient:
    """Sends requests to one node; documents are sent as JSON."""

    def __init__(self, session: aiohttp.ClientSession, address: str, cluster: SingleCluster):
        self._session = session
        self.address = address
        self.cluster = cluster

    async def send(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if document is not None:
            body = json.dumps(document).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        data = None if body is None else io.BytesIO(body)
        url = URL(self.address + path, encoded=True)
        async with self._session.request(method, url, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.send("GET", path, headers=headers)

    async def create(self, name: str = "job", **members: object) -> Any:
        """Create a job and return the answer's document."""
        document = {"name": name, **JOB, **members}
        answer = await self.send("POST", "/v1/jobs", document)
        assert answer.status == 201, answer.body
        return answer.json


JOB: dict[str, object] = {"schedule": {"every": "1h"}, "action": {"type": "noop"}}


@asynccontextmanager
async def api_client(cluster: SingleCluster | None = None) -> AsyncIterator[ApiClient]:
    """Serve a cluster of one on a free port of the loopback interface."""
    cluster = cluster or SingleCluster()
    application = make_application(cluster, version=VERSION, registry=cluster.registry)
    async with await start_server(application, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.port}"
        # Bodies without a type are part of what is tested.
        session = aiohttp.ClientSession(skip_auto_headers=["Content-Type"])
        async with session:
            yield ApiClient(session, address, cluster)
