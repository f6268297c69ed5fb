"""The key by which the cluster recognises a request that is sent again.

The key is a client's own word, so it is hashed together with what it was sent to: the
same word for another operation is another key. The request is hashed separately, in a
canonical form; the same key for another request of the same operation is refused.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from api.problems import Problem
from consensus.state.commands import RequestKey
from storage.limits import IDEMPOTENCY_KEY_CHARS_MAX

HEADER = "Idempotency-Key"
HASH_BYTES = 16


class Repeatable(NamedTuple):
    """A request with an idempotency key; `operation` is its method and route template."""

    operation: str
    key: str

    def request_key(self, request: bytes, item: int | None = None) -> RequestKey:
        """Return the key of the request, or of one `item` of it, with the request's hash."""
        name = self.operation if item is None else f"{self.operation}#{item}"
        return RequestKey(_hash(name.encode(), self.key.encode()), _hash(request))


def read_key(header: str | None, operation: str) -> Repeatable | None:
    """Return the request's key, or None if it has none.

    Raises:
        Problem: `invalid_header`.
    """
    if header is None:
        return None
    if not 0 < len(header) <= IDEMPOTENCY_KEY_CHARS_MAX or not _visible(header):
        raise Problem(
            "invalid_header",
            f"{HEADER} has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters of visible ASCII.",
        )
    return Repeatable(operation, header)


def _visible(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _hash(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=HASH_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()
