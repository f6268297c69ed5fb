"""JSON from strangers: parsed strictly, or refused with the place of each fault.

The decoder is fast and forgives three things that a request should not be forgiven:
members that occur twice (the last one wins, and which one the sender meant is unknown),
numbers beyond 64 bits, and nesting without end. They are looked for in a second pass,
which is skipped if a few counts prove that there is nothing to be found. The proof for
members: each contributes one colon outside of texts, and the texts are the same in the
body and in the object, so an equal number of colons means an equal number of members. It
fails only where a colon is written as an escape, and bodies with such escapes take the
second pass.
"""

from __future__ import annotations

import json
from collections import Counter

import msgspec

from api.faults import FaultList, child, shortened
from api.problems import Problem

DEPTH_MAX = 32
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="sorted").encode
_pack = msgspec.msgpack.Encoder().encode


def parse_json(body: bytes) -> object:
    """Return the plain objects of a JSON text (RFC 8259, UTF-8).

    Raises:
        Problem: `malformed_json`, with a pointer to each fault that has a place.
    """
    try:
        value = _decode(body)
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"The body is not UTF-8: {error.reason}.") from None
    except RecursionError:
        raise _too_deep() from None
    except msgspec.MsgspecError as error:
        raise Problem(
            "malformed_json", f"{_sentence(error)} NaN and Infinity are not JSON."
        ) from None
    if not _evidently_strict(body, value):
        _inspect(body, value)
    return value


def canonical(value: object) -> bytes:
    """Return the bytes by which two equal documents are recognised as equal."""
    return _canonical(value)


def _evidently_strict(body: bytes, value: object) -> bool:
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX:
        return False
    # To look for one byte is many times quicker than for two, and few bodies have it.
    if b"\\" in body and b"\\u" in body:
        return False
    try:
        _pack(value)
    except OverflowError:
        return False
    return body.count(b":") == _encode(value).count(b":")


def _inspect(body: bytes, value: object) -> None:
    faults = FaultList()
    if _depth_exceeds(value):
        raise _too_deep()
    # Its numbers were decoded once already, so they are within the bounds of the parser.
    repeated = json.loads(body, object_pairs_hook=_Members)
    _find_faults(repeated, "", faults)
    if faults:
        detail = f"{faults.faults[0].pointer}: {faults.faults[0].detail}"
        raise Problem("malformed_json", detail, errors=faults.faults)


class _Members(dict[str, object]):
    """An object that remembers which of its members were written more than once."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            counted = Counter(name for name, _ in pairs)
            self.repeated = sorted(name for name, count in counted.items() if count > 1)


def _depth_exceeds(value: object) -> bool:
    """Walk level by level, so that the walk itself needs no stack."""
    level = [value]
    for _ in range(DEPTH_MAX):
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        if not below:
            return False
        level = below
    return any(isinstance(one, dict | list) for one in level)


def _find_faults(value: object, pointer: str, faults: FaultList) -> None:
    if isinstance(value, _Members):
        for name in value.repeated:
            detail = f'"{shortened(name)}" occurs more than once; keep one of them.'
            faults.add(child(pointer, name), "duplicate_member", detail)
        for name, member in value.items():
            _find_faults(member, child(pointer, name), faults)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_faults(item, child(pointer, index), faults)
    elif isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        faults.add(pointer, "number_too_large", "The number does not fit into 64 bits.")


def _too_deep() -> Problem:
    return Problem("malformed_json", f"The body is nested more than {DEPTH_MAX} levels deep.")


def _sentence(error: msgspec.MsgspecError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
