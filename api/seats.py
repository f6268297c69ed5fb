"""Who belongs to the cluster: letting members in, changing them, letting them go.

What a request asks for is written down by the cluster, and answered with 202: the leader
then changes the configuration step by step, which GET /v1/cluster/configuration shows.

A token's secret never reaches the cluster. What opens the sealed bundle stays between who
made the token and who joins with it; what is sent here proves that the sender has the
token, and the log holds no more than a hash of that.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any, Literal

from aiohttp import web

from api.calls import JSON, MERGE_PATCH, Call, answer
from api.durations import format_time, parse_duration
from api.faults import FaultList, Rejected, shown
from api.object_reader import ObjectReader, one_of, text
from api.problems import Problem, invalid_document
from consensus.configuration import ADDRESS_CHARS_MAX, decode_configuration, split_address
from consensus.state.apply_seats import join_tokens, wanted_seats
from consensus.state.commands import ChangeMember, IssueToken, JoinMember, RemoveMember
from storage import keys, models
from storage.limits import BUNDLE_BYTES_MAX, TOKEN_MS_MAX
from storage.store import View

MEMBER_PATTERN = "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
HASH_PATTERN = "[0-9a-f]{64}"
TOKEN_MS_DEFAULT = 3_600_000
ROLES: dict[str, Literal["voter", "nonvoting"]] = {"voter": "voter", "nonvoting": "nonvoting"}

_MEMBER = re.compile(MEMBER_PATTERN)
_HASH = re.compile(HASH_PATTERN)


async def show_configuration(call: Call) -> web.Response:
    """GET /v1/cluster/configuration: the members as the log has them, and as they are wanted."""
    raw = call.cluster.view.get(keys.CONFIGURATION)
    if raw is None:
        return answer({"index": 0, "content": "", "members": []})
    record = models.decode_applied_configuration(raw)
    configuration = decode_configuration(record.content)
    wanted = wanted_seats(call.cluster.view)
    members: list[dict[str, Any]] = []
    for name in sorted(configuration.names | wanted.keys()):
        seat, wish = configuration.seat(name), wanted.get(name)
        members.append(
            {
                "name": name,
                "role": None if seat is None else seat.role,
                "address": None if seat is None else seat.address,
                "wanted_role": None if wish is None else wish.role,
                "wanted_address": None if wish is None else wish.address,
                "replaces": None if wish is None else wish.replaces,
            }
        )
    content = b64encode(record.content).decode()
    return answer({"index": record.index, "content": content, "members": members})


async def issue_token(call: Call) -> web.Response:
    """POST /v1/cluster/tokens."""
    document, faults, reader = await _read(
        call, ("token_hash", "name", "role", "replaces", "expires_in", "bundle")
    )
    token_hash = reader.require("token_hash", _parse_hash)
    name = reader.require("name", _parse_name)
    role = reader.read("role", one_of(ROLES), ROLES["voter"])
    replaces = reader.read("replaces", _parse_name, None)
    kept_ms = reader.read("expires_in", _parse_expiry, TOKEN_MS_DEFAULT)
    bundle = reader.require("bundle", _parse_bundle)
    if faults:
        raise invalid_document(faults.faults)
    assert token_hash is not None
    assert name is not None
    assert bundle is not None
    expires_ms = call.now_ms() + kept_ms
    key = call.request_key(document)
    await call.carry_out(IssueToken(token_hash, name, role, expires_ms, bundle, replaces, key))
    return answer({"name": name, "role": role, "expires_at": format_time(expires_ms)}, 201)


async def join(call: Call) -> web.Response:
    """POST /v1/members: use a token up; asked again, the answer is the same until it has joined."""
    document, faults, reader = await _read(call, ("proof", "name", "address"))
    proof = reader.require("proof", _parse_hash)
    name = reader.require("name", _parse_name)
    address = reader.require("address", _parse_address)
    if faults:
        raise invalid_document(faults.faults)
    assert proof is not None
    assert name is not None
    assert address is not None
    token_hash = sha256(proof).digest()
    await call.carry_out(JoinMember(token_hash, name, address, call.request_key(document)))
    if _has_begun(call.cluster.view, name):
        raise Problem("token_invalid", f"{name!r} has joined with this token.")
    token = join_tokens(call.cluster.view).get(token_hash)
    if token is None:
        raise Problem("token_invalid", "The token has expired meanwhile.")
    return answer({"name": name, "bundle": b64encode(token.bundle).decode()}, 202)


def _has_begun(view: View, name: str) -> bool:
    """Tell whether a member has taken its seat, so that nobody has to be told the same again.

    A joiner that lost its answer repeats its request, and has not been heard of before.
    """
    raw, seat = view.get(keys.MEMBER + name.encode()), wanted_seats(view).get(name)
    return (
        raw is not None
        and seat is not None
        and (models.decode_member(raw).joined_ms >= seat.since_ms)
    )


async def change_member(call: Call) -> web.Response:
    """PATCH /v1/members/{member}: another role, or another address."""
    _, faults, reader = await _read(call, ("role", "address"), MERGE_PATCH, JSON)
    role = reader.read("role", one_of(ROLES), None)
    address = reader.read("address", _parse_address, None)
    if faults:
        raise invalid_document(faults.faults)
    name = call.path_part("member")
    await call.carry_out(ChangeMember(name, role, address))
    return answer({"name": name}, 202)


async def remove_member(call: Call) -> web.Response:
    """DELETE /v1/members/{member}."""
    name = call.path_part("member")
    await call.carry_out(RemoveMember(name))
    return answer({"name": name}, 202)


async def _read(
    call: Call, known: tuple[str, ...], *media_types: str
) -> tuple[dict[str, Any], FaultList, ObjectReader]:
    document = await call.json(*media_types)
    if not isinstance(document, dict):
        raise Problem("invalid_document", "The body is an object.")
    faults = FaultList()
    reader = ObjectReader(document, "", faults)
    reader.known(known)
    return document, faults, reader


_parse_text = text(ADDRESS_CHARS_MAX)


def _parse_name(value: object) -> str:
    if not _MEMBER.fullmatch(_parse_text(value)):
        raise Rejected(
            "invalid_value",
            "The name of a member has 1 to 63 letters, digits, dots, hyphens or underscores and "
            f"begins and ends with a letter or a digit, unlike {shown(value)}.",
        )
    return str(value)


def _parse_address(value: object) -> str:
    if split_address(_parse_text(value)) is None:
        raise Rejected("invalid_value", f'An address is "host:port", not {shown(value)}.')
    return str(value)


def _parse_hash(value: object) -> bytes:
    if not _HASH.fullmatch(_parse_text(value)):
        raise Rejected("invalid_value", "It has 64 hexadecimal digits in small letters.")
    return bytes.fromhex(str(value))


def _parse_expiry(value: object) -> int:
    return parse_duration(value, minimum_ms=1_000, maximum_ms=TOKEN_MS_MAX)


def _parse_bundle(value: object) -> bytes:
    encoded = text(BUNDLE_BYTES_MAX)(value)
    try:
        return b64decode(encoded, validate=True)
    except binascii.Error:
        raise Rejected("invalid_value", "It is encoded as base64.") from None
