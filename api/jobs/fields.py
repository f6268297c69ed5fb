"""What the single fields of a job may be; each function judges one value.

Names are part of keys, addresses and file names, so they are short and plain ASCII. A
namespace must not look like a job's id: both stand at the same place in an address.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import get_args

from api.durations import DURATION_MS_MAX, TEXT_CHARACTERS_MAX, parse_duration
from api.faults import Rejected, shown
from api.ids import parse_job_id
from storage.limits import (
    LABEL_CHARS_MAX,
    LABELS_MAX,
    NAME_CHARS_MAX,
    NAMESPACE_CHARS_MAX,
    TIMEOUT_MS_MAX,
)
from storage.models import CatchUpPolicy, Delivery, Overlap

NAME_PATTERN = "[a-zA-Z0-9][a-zA-Z0-9._-]*"
LABEL_PATTERN = "[a-zA-Z0-9][a-zA-Z0-9._/-]*"

# The same few durations stand in most jobs, and reading one exactly takes a while.
DURATIONS_CACHED_MAX = 1_024

OVERLAPS: dict[str, Overlap] = {choice: choice for choice in get_args(Overlap)}
DELIVERIES: dict[str, Delivery] = {choice: choice for choice in get_args(Delivery)}
CATCH_UPS: dict[str, CatchUpPolicy] = {choice: choice for choice in get_args(CatchUpPolicy)}

_NAME = re.compile(NAME_PATTERN)
_LABEL = re.compile(LABEL_PATTERN)


def parse_name(value: object) -> str:
    """Return the name of a job."""
    return _plain(value, NAME_CHARS_MAX)


def parse_namespace(value: object) -> str:
    """Return the name of a namespace."""
    name = _plain(value, NAMESPACE_CHARS_MAX)
    if parse_job_id(name) is not None:
        raise Rejected("invalid_name", f"{shown(name)} looks like the id of a job; rename it.")
    return name


def _plain(value: object, characters_max: int) -> str:
    if not isinstance(value, str):
        raise Rejected("wrong_type", f"A name is a text, not {shown(value)}.")
    if len(value) > characters_max:
        detail = f"{shown(value)} has {len(value)} characters, {characters_max} are allowed."
        raise Rejected("too_long", detail)
    if not _NAME.fullmatch(value):
        raise Rejected(
            "invalid_name",
            f"{shown(value)} is not a name: use letters, digits, dots, hyphens and underscores,"
            " and begin with a letter or a digit.",
        )
    return value


def parse_labels(value: object) -> dict[str, str]:
    """Return labels: short plain keys, short texts as values."""
    if not isinstance(value, dict):
        raise Rejected("wrong_type", f"Labels are an object of texts, not {shown(value)}.")
    if len(value) > LABELS_MAX:
        detail = f"There are {len(value)} labels, {LABELS_MAX} are allowed."
        raise Rejected("too_many", detail)
    for key, text in value.items():
        if len(key) > LABEL_CHARS_MAX or not _LABEL.fullmatch(key):
            raise Rejected(
                "invalid_label",
                f"{shown(key)} is not a label: use at most {LABEL_CHARS_MAX} letters, digits,"
                " dots, slashes, hyphens and underscores.",
            )
        if not isinstance(text, str) or len(text) > LABEL_CHARS_MAX:
            detail = f"The value of {shown(key)} is a text of at most {LABEL_CHARS_MAX} characters."
            raise Rejected("invalid_label", detail)
    return value


def parse_timeout(value: object) -> int:
    """Return how long an attempt may take."""
    return _duration(value, 1, TIMEOUT_MS_MAX)


def parse_wait(value: object) -> int:
    """Return a duration that may be zero."""
    return _duration(value, 0, DURATION_MS_MAX)


def _duration(value: object, minimum_ms: int, maximum_ms: int) -> int:
    if isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX:
        return _remembered_duration(value, minimum_ms, maximum_ms)
    return parse_duration(value, minimum_ms=minimum_ms, maximum_ms=maximum_ms)


@lru_cache(maxsize=DURATIONS_CACHED_MAX)
def _remembered_duration(text: str, minimum_ms: int, maximum_ms: int) -> int:
    return parse_duration(text, minimum_ms=minimum_ms, maximum_ms=maximum_ms)


def parse_action(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        detail = f'An action is an object such as {{"type": "http", ...}}, not {shown(value)}.'
        raise Rejected("wrong_type", detail)
    return value
