"""Durations and times, between text and milliseconds."""

from __future__ import annotations

import pytest

from api.durations import (
    DAY_MS,
    DURATION_MS_MAX,
    HOUR_MS,
    MINUTE_MS,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
)
from api.faults import Rejected


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("1d", DAY_MS),
        ("1w2d", 9 * DAY_MS),
        ("1.5h", 90 * MINUTE_MS),
        ("0.25s", 250),
        ("2m5ms", 2 * MINUTE_MS + 5),
        ("PT90S", 90_000),
        ("P1DT12H", 36 * HOUR_MS),
        ("P2W", 14 * DAY_MS),
        ("PT0.5S", 500),
        ("3653d", DURATION_MS_MAX),
    ],
)
def test_a_duration_is_read_in_both_notations(text: str, duration_ms: int) -> None:
    """Units as in Go, largest first, or ISO 8601 without years and months."""
    assert parse_duration(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 m",
        "m",
        "1m1h",
        "1h1h",
        "P",
        "PT",
        "P1Y",
        "P1M",
        "pt5s",
        "1e3s",
        "0.1ms",
        "+5s",
        "1_0s",
        "\u0665s",
        "9" * 70 + "s",
        "3654d",
        "0s",
        "-1h",
        "PT-5S",
        "1h\n",
        "infs",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing is guessed: no unit, another order, months, or finer than a millisecond."""
    with pytest.raises(Rejected):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (250, "250ms"), (5_400_000, "1h30m"), (90 * DAY_MS, "90d"), (61_001, "1m1s1ms")],
)
def test_a_duration_is_written_in_its_largest_units(duration_ms: int, text: str) -> None:
    """Days are the largest unit, and what is zero is left out."""
    assert format_duration(duration_ms) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23T10:00:00+01:00", "2026-11-23T09:00:00.000Z"),
        ("2026-11-23t10:00:00z", "2026-11-23T10:00:00.000Z"),
        ("2026-11-23T10:00:00.123999-00:30", "2026-11-23T10:30:00.123Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_read_with_any_offset_and_written_in_utc(text: str, shown: str) -> None:
    """RFC 3339 in, UTC with milliseconds out."""
    assert format_time(parse_time(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-23",
        "2026-11-23T10:00:00",
        "2026-11-23 10:00:00Z",
        "2026-11-23T10:00Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T00:00:00+24:00",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",
        "20\u0662\u0666-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z\n",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A time has its offset, exists in the calendar, and lies between 1970 and 9999."""
    with pytest.raises(Rejected):
        parse_time(text)
