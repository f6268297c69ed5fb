"""The identity of one life of a member."""

from __future__ import annotations

from storage import keys, models
from storage.clock import Environment, new_id
from storage.store import View

BORN_BYTES = 6


def later_incarnation(environment: Environment, view: View, member: str) -> bytes:
    """Return an id behind those of all earlier lives, wherever the clock stands by now.

    Ids sort by their time of birth, and the state machine takes an older one for a message
    out of the past; a member whose clock was set back could not come back otherwise.
    """
    fresh = new_id(environment)
    raw = view.get(keys.MEMBER + member.encode())
    known = b"" if raw is None else models.decode_member(raw).incarnation
    if fresh > known:
        return fresh
    born_ms = int.from_bytes(known[:BORN_BYTES], "big") + 1
    return born_ms.to_bytes(BORN_BYTES, "big") + fresh[BORN_BYTES:]
