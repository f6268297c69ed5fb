"""Durations and points in time, between their text in the API and whole milliseconds.

Milliseconds since the Unix epoch, UTC, are the only time the program calculates with, so
text is turned into an int at the edge and back on the way out. A number is not accepted
where a duration stands: it does not say its unit. Years and months are not accepted
either, for they have no fixed length, and a point in time must say its offset, for the
reader may live elsewhere than the writer.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache

from api.faults import Rejected, shown

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

# The last millisecond of the year 9999, where RFC 3339 and Python's calendar both end.
TIME_MS_MAX = 253_402_300_799_999
# Ten years with their leap days. Longer is a slip of the unit, not a schedule.
DURATION_MS_MAX = 3_653 * DAY_MS
# "3652d23h59m59s999ms" has 19 characters; leading zeros need not be unlimited.
TEXT_CHARACTERS_MAX = 64

# The times in an answer lie close together, and a calendar date takes a while to work out.
SECONDS_CACHED_MAX = 1_024

# Everything here is UTC, and without saying so the calendar is several times quicker.
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_NUMBER = r"(\d+(?:\.\d+)?)"
_PLAIN = re.compile(
    rf"(?:{_NUMBER}w)?(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?"
    rf"(?:{_NUMBER}ms)?",
    re.ASCII,
)
_ISO_8601 = re.compile(
    rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?",
    re.ASCII,
)
_ISO_8601_CALENDAR = re.compile(r"P[^T]*[YM]")
_UNITS_MS = (WEEK_MS, DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, 1)
_NAMES = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m"), (SECOND_MS, "s"), (1, "ms"))
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_TIME_HINT = 'write for example "2026-11-23T10:00:00Z" or "2026-11-23T10:00:00+01:00"'


def parse_duration(value: object, *, minimum_ms: int = 1, maximum_ms: int = DURATION_MS_MAX) -> int:
    """Return the milliseconds of "1h30m", "250ms", "1.5s" or ISO 8601 "PT90S".

    Units are w, d, h, m, s and ms, largest first, each at most once.

    Raises:
        Rejected: not a text, not a duration, finer than 1 ms, or out of bounds.
    """
    if not isinstance(value, str):
        raise Rejected(
            "wrong_type", f'A duration is a text with units such as "90s", not {shown(value)}.'
        )
    total = _exact_ms(value)
    if total.denominator != 1:
        raise Rejected("invalid_duration", f"{shown(value)} is finer than one millisecond.")
    if not minimum_ms <= total <= maximum_ms:
        raise Rejected(
            "out_of_range",
            f"{shown(value)} is out of range: use {format_duration(minimum_ms)} to "
            f"{format_duration(maximum_ms)}.",
        )
    return int(total)


def _exact_ms(text: str) -> Fraction:
    matched = None
    if len(text) <= TEXT_CHARACTERS_MAX:
        matched = _PLAIN.fullmatch(text) or _ISO_8601.fullmatch(text)
    if matched is None or not any(matched.groups()):
        raise Rejected("invalid_duration", _duration_detail(text))
    parts = zip(_UNITS_MS, matched.groups(), strict=False)
    return sum((unit_ms * Fraction(number) for unit_ms, number in parts if number), Fraction(0))


def _duration_detail(text: str) -> str:
    if text.startswith("-"):
        return f"{shown(text)} is negative; a duration is greater than zero."
    if _ISO_8601_CALENDAR.match(text):
        return f"{shown(text)} counts years or months, which differ in length; use days or cron."
    return f'{shown(text)} is not a duration; write for example "90s", "1h30m", "250ms" or "PT90S".'


def format_duration(duration_ms: int) -> str:
    """Return "1h30m" for 5,400,000; the largest unit is the day, zero is "0s"."""
    parts = []
    rest_ms = duration_ms
    for unit_ms, name in _NAMES:
        number, rest_ms = divmod(rest_ms, unit_ms)
        if number:
            parts.append(f"{number}{name}")
    return "".join(parts) or "0s"


def parse_time(value: object) -> int:
    """Return the milliseconds since the epoch of an RFC 3339 time with its offset.

    Digits finer than a millisecond are cut off. The range is the years 1970 to 9999.

    Raises:
        Rejected: not a text, not such a time, or out of range.
    """
    if not isinstance(value, str):
        raise Rejected("wrong_type", f"A time is an RFC 3339 text, not {shown(value)}.")
    matched = _RFC_3339.fullmatch(value) if len(value) <= TEXT_CHARACTERS_MAX else None
    if matched is None:
        raise Rejected(
            "invalid_time",
            f"{shown(value)} is not an RFC 3339 time with an offset; {_TIME_HINT}.",
        )
    try:
        time_ms = _matched_time_ms(matched)
    except ValueError as error:
        detail = f"{shown(value)} is no time of the calendar ({error}); {_TIME_HINT}."
        raise Rejected("invalid_time", detail) from None
    if not 0 <= time_ms <= TIME_MS_MAX:
        raise Rejected("out_of_range", f"{shown(value)} is outside the years 1970 to 9999.")
    return time_ms


def _matched_time_ms(matched: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = matched.groups()
    local = datetime(  # noqa: DTZ001
        int(year), int(month), int(day), int(hour), int(minute), int(second)
    )
    since = local - _EPOCH
    local_ms = since.days * DAY_MS + since.seconds * SECOND_MS
    offset_ms = _offset_ms(sign, int(hours), int(minutes)) if sign else 0
    return local_ms - offset_ms + int(((fraction or "") + "000")[:3])


def _offset_ms(sign: str, hours: int, minutes: int) -> int:
    if hours >= 24:  # noqa: PLR2004
        raise ValueError("hour of the offset must be in 0..23")
    if minutes >= 60:  # noqa: PLR2004
        raise ValueError("minute of the offset must be in 0..59")
    offset_ms = hours * HOUR_MS + minutes * MINUTE_MS
    return -offset_ms if sign == "-" else offset_ms


def format_time(time_ms: int) -> str:
    """Return "2026-11-23T09:00:00.000Z", the form in which the API writes all times."""
    second, milliseconds = divmod(time_ms, SECOND_MS)
    return f"{_format_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=SECONDS_CACHED_MAX)
def _format_second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()
