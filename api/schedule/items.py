"""One item of a list in a field of a cron expression: `5`, `1-5`, `*/15`, `H`, `15W`, `5#2`.

Every item becomes a canonical text and the values it stands for. Where dialects differ, or
croniter accepts what can hardly be meant, the item is rejected with the way to say it.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from api.faults import Rejected, shown
from api.schedule.fields import DAY, WEEKDAY, FieldKind

SUNDAY_AS_SEVEN = 7
# `H` in the day of the month stays where every month has a day, as in Jenkins.
HASHED_DAY_MAX = 28

_HASHED = re.compile(r"H(?:\((\d{1,4})-(\d{1,4})\))?(?:/(\d{1,4}))?", re.ASCII)
_RANDOM = re.compile(r"R(?:\(.*)?(?:/.*)?", re.ASCII)
_NEAREST_WEEKDAY = re.compile(r"(?:(\d{1,2})W|W(\d{1,2}))", re.ASCII)
_NTH_WEEKDAY = re.compile(r"(\w+)#(-?\w+)", re.ASCII)
_LAST_WEEKDAY = re.compile(r"(?:L(\d|[A-Z]{3})|(\d|[A-Z]{3})L)", re.ASCII)
_INTEGER = re.compile(r"\d{1,4}", re.ASCII)


def parse_item(kind: FieldKind, item: str, seed: bytes) -> tuple[str, tuple[int, ...]]:
    """Return the canonical text of an item of a list, and its values if they are fixed."""
    hashed = _HASHED.fullmatch(item)
    if hashed:
        item = _resolve_hashed(kind, item, hashed, seed)
    if _RANDOM.fullmatch(item):
        raise Rejected(
            "cron_random", f'{shown(item)} is random, so members would disagree; use "H" instead.'
        )
    if kind is DAY and ("L" in item or "W" in item):
        return _parse_special_day(item), ()
    if kind is WEEKDAY and ("L" in item or "#" in item):
        return _parse_special_weekday(item), ()
    if item == "?" and kind in (DAY, WEEKDAY):
        item = "*"
    return _parse_span(kind, item)


def _resolve_hashed(kind: FieldKind, item: str, hashed: re.Match[str], seed: bytes) -> str:
    low, high = kind.low, HASHED_DAY_MAX if kind is DAY else kind.high
    if hashed[1]:
        low, high = int(hashed[1]), int(hashed[2])
        if not kind.low <= low < high <= kind.high:
            raise Rejected(
                "cron_out_of_range",
                f"{shown(item)} in the {kind.label} needs a rising range within "
                f"{kind.low}-{kind.high}.",
            )
    if not hashed[3]:
        return str(_draw(kind, seed, low, high))
    step = int(hashed[3])
    if not 1 <= step <= high - low + 1:
        raise _bad_step(kind, item, high - low + 1)
    first = _draw(kind, seed, low, low + step - 1)
    return f"{first}-{high}/{step}" if first + step <= high else str(first)


def _draw(kind: FieldKind, seed: bytes, low: int, high: int) -> int:
    digest = blake2b(seed, digest_size=8, person=kind.label.encode()).digest()
    return low + int.from_bytes(digest, "big") % (high - low + 1)


def _parse_special_day(item: str) -> str:
    nearest = _NEAREST_WEEKDAY.fullmatch(item)
    if nearest:
        day = int(nearest[1] or nearest[2])
        if not DAY.low <= day <= DAY.high:
            raise _out_of_range(DAY, item)
        return f"{day}W"
    if item == "L":
        return item
    raise bad_item(DAY, item, 'use "L" for the last day or "15W" for the weekday nearest the 15th')


def _parse_special_weekday(item: str) -> str:
    nth = _NTH_WEEKDAY.fullmatch(item)
    if nth:
        if nth[2] not in ("1", "2", "3", "4", "5"):
            raise bad_item(WEEKDAY, item, "the number after # is 1 to 5")
        return f"{_value(WEEKDAY, nth[1]) % SUNDAY_AS_SEVEN}#{nth[2]}"
    last = _LAST_WEEKDAY.fullmatch(item)
    if last:
        return f"L{_value(WEEKDAY, last[1] or last[2]) % SUNDAY_AS_SEVEN}"
    raise bad_item(WEEKDAY, item, 'use "5#2" for the second Friday or "L5" for the last Friday')


def _parse_span(kind: FieldKind, item: str) -> tuple[str, tuple[int, ...]]:
    """Read `*`, `a`, `a-b`, each with an optional `/step`, ranges around the end included."""
    body, slash, step_text = item.partition("/")
    first, dash, last = body.partition("-")
    if body == "*":
        low, high = kind.low, kind.high
    else:
        low = _value(kind, first)
        high = _value(kind, last) if dash else (kind.high if slash else low)
    if dash and low == high:
        raise Rejected(
            "cron_equal_range",
            f'{shown(item)} in the {kind.label} begins where it ends; write "{first}" for the one '
            'value or "*" for all.',
        )
    if low == SUNDAY_AS_SEVEN and kind is WEEKDAY:
        low, high = 0, high % SUNDAY_AS_SEVEN
        if dash and high == 0:
            raise bad_item(kind, item, "both ends are Sunday")
    count = high - low + 1 if high >= low else high - low + 1 + kind.size
    step = _parse_step(kind, item, step_text, count) if slash else 1
    values = [kind.low + (low - kind.low + index) % kind.size for index in range(0, count, step)]
    unique = tuple(sorted(set(values)))
    if body == "*" and len(unique) > 1:
        return ("*" if step == 1 else f"*/{step}"), unique
    if len(unique) == 1:
        return str(unique[0]), unique
    if values != list(unique):
        return _compressed(unique), unique
    return f"{low}-{high}" + (f"/{step}" if step > 1 else ""), unique


def _parse_step(kind: FieldKind, item: str, text: str, count: int) -> int:
    step = int(text) if _INTEGER.fullmatch(text) else 0
    if step > count:
        raise _bad_step(kind, item, count)
    if step < 1:
        raise bad_item(kind, item, "a step is a whole number of at least 1")
    return step


def _value(kind: FieldKind, text: str) -> int:
    if text in kind.names:
        return kind.low + kind.names.index(text)
    if not _INTEGER.fullmatch(text):
        names = f" or {kind.names[0]}-{kind.names[-1]}" if kind.names else ""
        raise bad_item(kind, text, f"use {kind.low}-{kind.high}{names}")
    value = int(text)
    if not kind.low <= value <= kind.high and not (kind is WEEKDAY and value == SUNDAY_AS_SEVEN):
        raise _out_of_range(kind, text)
    return value


def _compressed(values: tuple[int, ...]) -> str:
    """Return sorted values as a list of numbers and ranges: 0, 1, 2, 5 as "0-2,5"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def bad_item(kind: FieldKind, item: str, hint: str) -> Rejected:
    return Rejected("cron_syntax", f"{shown(item)} in the {kind.label} is not understood: {hint}.")


def _bad_step(kind: FieldKind, item: str, count: int) -> Rejected:
    return Rejected(
        "cron_step_too_large",
        f"The step of {shown(item)} in the {kind.label} is larger than its range of {count} "
        "values, or zero, so it would not repeat; use a smaller one.",
    )


def _out_of_range(kind: FieldKind, item: str) -> Rejected:
    return Rejected(
        "cron_out_of_range",
        f"{shown(item)} is not in the range of the {kind.label}, {kind.low}-{kind.high}.",
    )
