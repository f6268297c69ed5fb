"""Requests to whichever node answers.

The addresses are tried in turn. A node that refuses the connection has certainly not seen
the request, and one that answers 503 says that nothing was changed, so the next is asked
whatever the request is. When a connection breaks or stays silent after the request was sent,
it may have taken effect: then only reads, and writes under an Idempotency-Key, go to the
next node. Every POST gets such a key.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from node.cli.addresses import Address
from node.cli.exits import TIMEOUT, UNAVAILABLE, CommandFailed
from node.cli.problems import refused
from storage.clock import Environment, new_id

CONNECT_S_MAX = 3.0
# A write may wait for an election and for the disks of a majority.
ANSWER_S_MAX = 30.0
# A full page of the largest jobs; more is not an answer of this API.
ANSWER_BYTES_MAX = 128 * 1_048_576
PAGE_ITEMS_MAX = 1_000
KEY_HEADER = "Idempotency-Key"
OK, TRY_NEXT = 200, 503
JSON = "application/json"

Query = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """An answer with a status of 200 to 299; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body) if self.body else {}
        except ValueError:
            raise CommandFailed("The answer is not JSON; is this a Cronclave node?") from None

    @property
    def log_index(self) -> str | None:
        """The index of the cluster's log up to which the answer is true."""
        return self.headers.get("x-cronclave-index")


class _Silent(Exception):
    """The request was sent and no whole answer came back."""


class Stream:
    """An answer that is read bit by bit; a connection that breaks is a failure."""

    def __init__(self, connection: http.client.HTTPConnection, path: str, name: str) -> None:
        self._name = name
        with self._unbroken():
            connection.request("GET", path, headers={"Accept": "*/*"})
            self._response = connection.getresponse()
        self.status = self._response.status
        if self.status not in (OK, TRY_NEXT):
            body = self.read(ANSWER_BYTES_MAX)
            raise refused(self.status, self._headers(), body)

    def header(self, name: str) -> str | None:
        return self._headers().get(name)

    def read(self, size: int) -> bytes:
        """Return so many bytes, or what is left."""
        with self._unbroken():
            return self._response.read(size)

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self._response.getheaders()}

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(f"{self._name}: the connection broke: {_words(error)}.") from None


class Client:
    """Speaks to one cluster; not safe for use by several threads."""

    def __init__(
        self,
        addresses: Sequence[Address],
        environment: Environment,
        *,
        answer_s_max: float = ANSWER_S_MAX,
    ) -> None:
        self._addresses = list(addresses)
        self._environment = environment
        self._answer_s_max = answer_s_max

    def get(self, path: str, query: Query = (), *, accept: str = JSON) -> Answer:
        return self._send("GET", _target(path, query), None, {"Accept": accept})

    def post(
        self, path: str, document: object = None, query: Query = (), *, key: str = ""
    ) -> Answer:
        """Act or create, under a key that makes a repetition harmless; by default a new one."""
        headers = {KEY_HEADER: key or new_id(self._environment).hex()}
        return self._send("POST", _target(path, query), document, headers)

    def patch(self, path: str, document: object) -> Answer:
        return self._send("PATCH", _target(path, ()), document, {})

    def put(
        self,
        path: str,
        document: object,
        query: Query = (),
        *,
        match: str | None = None,
        create_only: bool = False,
    ) -> Answer:
        """Create or replace; with `match` only what still has that entity tag."""
        headers = {} if match is None else {"If-Match": match}
        if create_only:
            headers["If-None-Match"] = "*"
        return self._send("PUT", _target(path, query), document, headers)

    def delete(self, path: str) -> Answer:
        return self._send("DELETE", _target(path, ()), None, {})

    def items(
        self,
        path: str,
        query: Query,
        count: int | None,
        wanted: Callable[[Any], bool] | None = None,
    ) -> Iterator[Any]:
        """Yield the items of a list, page after page; at most `count`, and only those `wanted`."""
        cursor: str | None = None
        left = count
        while left is None or left > 0:
            limit = PAGE_ITEMS_MAX if left is None else min(left, PAGE_ITEMS_MAX)
            page = [*query, ("limit", str(limit))]
            if cursor is not None:
                page.append(("cursor", cursor))
            answer = self.get(path, page).json()
            found = [item for item in answer["items"] if wanted is None or wanted(item)]
            yield from found[:left]
            left = None if left is None else left - len(found)
            cursor = answer.get("next_cursor")
            if cursor is None:
                return

    def _send(
        self,
        method: str,
        target: str,
        document: object,
        headers: Mapping[str, str],
    ) -> Answer:
        body = None if document is None else json.dumps(document).encode()
        repeatable = method == "GET" or KEY_HEADER in headers
        sent = {"Accept": JSON, **headers}
        if body is not None:
            sent["Content-Type"] = JSON
        failures: list[str] = []
        latest: Answer | None = None
        in_doubt = False
        for address in list(self._addresses):
            try:
                answer = self._exchange(address, method, target, body, sent)
            except ConnectionError as error:
                failures.append(f"{address}: {error}")
                continue
            except _Silent as error:
                failures.append(f"{address}: {error}")
                in_doubt = method != "GET"
                if repeatable:
                    continue
                break
            if answer.status != TRY_NEXT:
                self._prefer(address)
                return _accepted(answer)
            failures.append(f"{address}: it is not ready or has no quorum")
            latest = answer
        if in_doubt:
            raise CommandFailed(_unknown(failures), TIMEOUT)
        if latest is not None:
            raise refused(latest.status, latest.headers, latest.body)
        raise CommandFailed(_unreachable(failures), UNAVAILABLE)

    @contextmanager
    def stream(self, path: str) -> Iterator[Stream]:
        """Ask for something too large to be held, and give the answer to be read on the way.

        Nodes are asked in turn until one begins to answer.
        """
        failures: list[str] = []
        for address in list(self._addresses):
            try:
                connection = self._connected(address)
            except ConnectionError as error:
                failures.append(f"{address}: {error}")
                continue
            try:
                stream = Stream(connection, path, str(address))
                if stream.status != TRY_NEXT:
                    yield stream
                    return
                failures.append(f"{address}: it is not ready")
            finally:
                connection.close()
        raise CommandFailed(_unreachable(failures), UNAVAILABLE)

    def _prefer(self, address: Address) -> None:
        """Begin with the node that answered; the others keep their order."""
        self._addresses.remove(address)
        self._addresses.insert(0, address)

    def _exchange(
        self,
        address: Address,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        """Return the answer of one node, whatever its status.

        Raises:
            ConnectionError: the request was certainly not sent.
            _Silent: it was, or part of it, and no whole answer came.
        """
        connection = self._connected(address)
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            response = connection.getresponse()
            content = response.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError:
            raise _Silent(f"no answer within {self._answer_s_max:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Silent(f"the connection broke: {_words(error)}") from None
        finally:
            connection.close()
        # http.client takes the end of a connection for the end of an answer.
        if response.length and len(content) <= ANSWER_BYTES_MAX:
            raise _Silent("the connection broke in the middle of the answer")
        if len(content) > ANSWER_BYTES_MAX:
            raise CommandFailed(f"{address}: the answer is larger than {ANSWER_BYTES_MAX} bytes.")
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content)

    def _connected(self, address: Address) -> http.client.HTTPConnection:
        """Return a connection to a node, on which it has a bounded time to answer."""
        kind = http.client.HTTPSConnection if address.encrypted else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=CONNECT_S_MAX)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ConnectionError(_words(error)) from None
        connection.sock.settimeout(self._answer_s_max)
        return connection


def _accepted(answer: Answer) -> Answer:
    if 200 <= answer.status < 300:  # noqa: PLR2004
        return answer
    raise refused(answer.status, answer.headers, answer.body)


def _target(path: str, query: Query) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def segment(text: str) -> str:
    """Return one part of a path; a slash in it stays inside the part."""
    return quote(text, safe="")


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer to the connection"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def _unreachable(failures: Sequence[str]) -> str:
    lines = "\n".join(f"  {failure}" for failure in failures)
    return (
        f"No node answers:\n{lines}\n"
        "Is it running? `cronclave dev` starts a cluster on this machine; --addr or "
        "CRONCLAVE_ADDR say where one is."
    )


def _unknown(failures: Sequence[str]) -> str:
    lines = "\n".join(f"  {failure}" for failure in failures)
    return (
        f"It is not known whether the change took effect:\n{lines}\n"
        "Look at the job before you repeat it."
    )
