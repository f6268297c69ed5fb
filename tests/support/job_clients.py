"""Clients that create, replace, delete and read jobs over HTTP, and note what they see.

Each has one operation at a time, sends it to one node, and never asks twice: an answer
that does not come is an unknown outcome, and the checker treats it as such.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.cluster import Answer, Node
from tests.support.histories import History, Kind, Operation, Outcome

# Then another job takes its place: the checker bounds what it can judge at 200.
OPERATIONS_PER_JOB_MAX = 150
# Longer than an election, shorter than anybody would wait.
PATIENCE_S = 5.0
WEIGHTS = {Kind.CREATE: 2, Kind.REPLACE: 6, Kind.DELETE: 1, Kind.READ: 8}

# What a status says about the job, and what it leaves open. The rest is a fault of the API.
OUTCOMES = {
    200: Outcome.DONE,
    201: Outcome.DONE,
    204: Outcome.DONE,
    404: Outcome.ABSENT,
    409: Outcome.UNDONE,
    429: Outcome.UNDONE,
    503: Outcome.UNDONE,
    504: Outcome.UNKNOWN,
}


@asynccontextmanager
async def careful_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that sends each request once.

    By default the library sends a PUT or DELETE again by itself when a connection breaks,
    and what was done twice looks like what was done once.
    """
    async with aiohttp.ClientSession(trust_env=False) as session:
        session._retry_connection = False
        yield session


class JobClients:
    """Some clients of one cluster; `usable` gives the nodes that may be asked."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        usable: Callable[[], list[Node]],
        chance: random.Random,
        *,
        jobs: int,
        pause_s: float = 0.05,
    ) -> None:
        self._session = session
        self._usable = usable
        self._chance = chance
        self._pause_s = pause_s
        self._history = History(time.monotonic)
        self._jobs = [f"job-{number}" for number in range(jobs)]
        self._counts = dict.fromkeys(self._jobs, 0)
        self._values = 0
        self._seen: dict[tuple[str, str], int] = {}
        self._over = asyncio.Event()

    async def run(self, clients: int) -> None:
        """Work until `stop` is called."""
        await asyncio.gather(*(self._work(f"c{number}") for number in range(clients)))

    def stop(self) -> None:
        """Let every client end behind what it is doing."""
        self._over.set()

    async def read_all(self) -> None:
        """Read every job once more, at every node."""
        for job in self._counts:
            for node in self._usable():
                await self._operate("last", node, job, Kind.READ, None)

    @property
    def operations(self) -> list[Operation]:
        """Return everything that was done."""
        return self._history.close()

    async def _work(self, client: str) -> None:
        while not self._over.is_set():
            job = self._choose()
            kind = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            conditional = kind in (Kind.REPLACE, Kind.DELETE) and self._chance.random() < 0.6
            expected = self._seen.get((client, job)) if conditional else None
            node = self._chance.choice(self._usable())
            await self._operate(client, node, job, kind, expected)
            await asyncio.sleep(self._chance.uniform(0, 2 * self._pause_s))

    def _choose(self) -> str:
        place = self._chance.randrange(len(self._jobs))
        job = self._jobs[place]
        self._counts[job] += 1
        if self._counts[job] >= OPERATIONS_PER_JOB_MAX:
            self._jobs[place] = f"job-{len(self._counts)}"
            self._counts[self._jobs[place]] = 0
        return job

    async def _operate(
        self, client: str, node: Node, job: str, kind: Kind, expected: int | None
    ) -> None:
        value = None
        if kind in (Kind.CREATE, Kind.REPLACE):
            self._values += 1
            value = f"{client}-{self._values}"
        call = self._history.begin(job, kind, client=client, value=value, expected=expected)
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._send(node.url, job, kind, value, expected)
        except aiohttp.ClientConnectorError as error:
            # Nobody was there to take it. Each outcome that is left open costs the checker's
            # search, and the slower the machine, the longer nobody is there.
            self._history.end(call, Outcome.UNDONE, detail=type(error).__name__)
            return
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            self._history.end(call, Outcome.UNKNOWN, detail=type(error).__name__)
            return
        outcome, revision, shown = _understood(kind, answer)
        detail = f"{answer.status}"
        if answer.status >= 400:
            detail += f" {answer.body['code']}"
        self._history.end(call, outcome, revision=revision, value=shown, detail=detail)
        if revision is not None:
            self._seen[client, job] = revision

    async def _send(
        self, url: str, job: str, kind: Kind, value: str | None, expected: int | None
    ) -> Answer:
        url = f"{url}/v1/jobs/default/{job}"
        headers = {} if expected is None else {"If-Match": f'"{expected}"'}
        body: Any = None
        match kind:
            case Kind.READ:
                return await self._request("GET", f"{url}?consistency=linearizable", headers, body)
            case Kind.DELETE:
                return await self._request("DELETE", url, headers, body)
            case Kind.CREATE:
                headers = {"If-None-Match": "*"}
        body = {
            "name": job,
            "description": value,
            "schedule": {"manual": True},
            "action": {"type": "noop"},
        }
        return await self._request("PUT", url, headers, body)

    async def _request(self, method: str, url: str, headers: dict[str, str], body: Any) -> Answer:
        async with self._session.request(method, url, json=body, headers=headers) as response:
            content = await response.read()
            decoded = json.loads(content) if content else None
            return Answer(response.status, response.headers.copy(), decoded)


def _understood(kind: Kind, answer: Answer) -> tuple[Outcome, int | None, str | None]:
    """Return what an answer says: the outcome, the revision, and the value that is shown."""
    if answer.status == 412:
        return (Outcome.PRESENT if kind is Kind.CREATE else Outcome.MISMATCH), None, None
    outcome = OUTCOMES.get(answer.status)
    assert outcome is not None, (kind, answer)
    if outcome is not Outcome.DONE or kind is Kind.DELETE:
        return outcome, None, None
    revision = int(answer.headers["ETag"].strip('"'))
    assert revision == answer.body["revision"], answer
    return outcome, revision, answer.body["description"]
