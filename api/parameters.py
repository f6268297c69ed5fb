"""The query parameters that a route declares, and nothing else.

A parameter that nobody reads is refused: a filter with a slip in its name would otherwise
return everything and look as if it had worked.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Protocol

from api.durations import parse_time
from api.faults import FaultList, Rejected, shortened, shown
from api.ids import JOB_ID_PATTERN, parse_job_id
from api.problems import invalid_parameters
from storage.limits import (
    LABEL_CHARS_MAX,
    NAME_CHARS_MAX,
    PAGE_ITEMS_DEFAULT,
    PAGE_ITEMS_MAX,
)

# LMDB's keys have at most 511 bytes.
CURSOR_BYTES_MAX = 511
# A page asks for one label or three; each is looked at for every row.
REPEATED_MAX = 16

_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
NO_QUERY: Mapping[str, Any] = MappingProxyType({})


class Query(Protocol):
    """The raw parameters of an address, of which each may occur several times."""

    def keys(self) -> Any: ...

    def getall(self, key: str) -> Sequence[str]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: how it is read, and the schema that the document shows for it."""

    name: str
    parse: Callable[[str], object]
    description: str
    schema: Mapping[str, Any]
    repeatable: bool = False


def parse_query(declared: Mapping[str, Parameter], query: Query) -> Mapping[str, Any]:
    """Return the values of the parameters that are there; repeatable ones as lists.

    Raises:
        Problem: `invalid_parameter`, naming each that is unknown, repeated or wrong.
    """
    values: dict[str, Any] = {}
    faults = FaultList()
    for name in dict.fromkeys(query.keys()):
        parameter = declared.get(name)
        pointer = f"?{shortened(name)}"
        if parameter is None:
            faults.add(pointer, "unknown_parameter", _unknown(name, declared))
            continue
        texts = query.getall(name)
        if len(texts) > (REPEATED_MAX if parameter.repeatable else 1):
            faults.add(pointer, "repeated", f'"{name}" is given {len(texts)} times.')
            continue
        try:
            found = [parameter.parse(text) for text in texts]
            values[name] = found if parameter.repeatable else found[0]
        except Rejected as rejected:
            faults.add(pointer, rejected.code, rejected.detail)
    if faults:
        raise invalid_parameters(faults.faults)
    return values


def _unknown(name: str, declared: Mapping[str, Parameter]) -> str:
    close = get_close_matches(shortened(name), declared, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"use {', '.join(sorted(declared))}."
    return f"{shown(name)} is not a parameter here; {hint}"


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            detail = f"{shown(text)} is not a whole number from {low} to {high}."
            raise Rejected("out_of_range", detail)
        return int(text)

    return parse


def whole(
    name: str, low: int, high: int, description: str, default: int | None = None
) -> Parameter:
    """Declare a whole number."""
    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    if default is not None:
        schema["default"] = default
    return Parameter(name, _whole(low, high), description, schema)


def choice(
    name: str, choices: Sequence[str], description: str, *, repeatable: bool = False
) -> Parameter:
    """Declare a parameter with a fixed set of values."""

    def parse(text: str) -> str:
        if text not in choices:
            close = get_close_matches(shortened(text), choices, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"use {', '.join(choices)}."
            raise Rejected("unknown_value", f"{shown(text)} is not known here; {hint}")
        return text

    schema = {"type": "string", "enum": list(choices)}
    return Parameter(name, parse, description, schema, repeatable)


def plain(name: str, characters_max: int, description: str) -> Parameter:
    """Declare a text."""

    def parse(text: str) -> str:
        if len(text) > characters_max:
            raise Rejected("too_long", f"At most {characters_max} characters are allowed.")
        return text

    return Parameter(name, parse, description, {"type": "string", "maxLength": characters_max})


def instant(name: str, description: str) -> Parameter:
    """Declare a point in time."""
    return Parameter(name, parse_time, description, {"type": "string", "format": "date-time"})


def flag(name: str, description: str) -> Parameter:
    """Declare a parameter that is true or false."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise Rejected("wrong_type", f'{shown(text)} is neither "true" nor "false".')
        return text == "true"

    return Parameter(name, parse, description, {"type": "boolean", "default": False})


def _parse_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or len(text) > 2 * LABEL_CHARS_MAX + 1:
        raise Rejected("invalid_label", f'{shown(text)} is not of the form "key=value".')
    return key, value


def _parse_job(text: str) -> bytes:
    job = parse_job_id(text)
    if job is None:
        raise Rejected("invalid_id", f"{shown(text)} is not the id of a job.")
    return job


def format_cursor(key: bytes) -> str:
    """Return a position in a table as text that nobody should look into."""
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def _parse_cursor(text: str) -> bytes:
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 0 < len(key) <= CURSOR_BYTES_MAX:
        raise Rejected("invalid_cursor", _CURSOR_DETAIL)
    return key


_CURSOR_DETAIL = "It is not a cursor; use next_cursor of the page before, with the same filters."


def foreign_cursor() -> Rejected:
    """Return what is said of a cursor that belongs to another list."""
    return Rejected("invalid_cursor", _CURSOR_DETAIL)


MIN_INDEX = whole("min_index", 0, 10**18 - 1, "Answer once this member has applied that log index.")
CONSISTENCY = choice(
    "consistency",
    ("local", "linearizable"),
    "`local` may lag a little; `linearizable` shows all that was acknowledged before.",
)
LIMIT = whole("limit", 1, PAGE_ITEMS_MAX, "How many items a page has.", PAGE_ITEMS_DEFAULT)
CURSOR = Parameter(
    "cursor", _parse_cursor, "Where the page begins: `next_cursor` of the one before.",
    {"type": "string"},
)  # fmt: skip
LABEL = Parameter(
    "label", _parse_label, "Only with this label, as `key=value`. All that are given must match.",
    {"type": "string", "pattern": "^[^=]+=.*$"}, repeatable=True,
)  # fmt: skip
JOB = Parameter(
    "job", _parse_job, "Only of the job with this id.",
    {"type": "string", "pattern": f"^{JOB_ID_PATTERN}$"},
)  # fmt: skip
NAMESPACE = plain("namespace", NAME_CHARS_MAX, "Only of this namespace.")
SINCE = instant("since", "Not before this time.")
UNTIL = instant("until", "Before this time.")
DRY_RUN = flag("dry_run", "Say what would be done, and do nothing.")
COMMON = (MIN_INDEX, CONSISTENCY)
