"""The adapter to croniter, and a golden file of what whole expressions do.

Run this file as a script to write the golden file anew, and review the difference: a change
there is a change of when jobs start.
"""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
from croniter import croniter

from api.durations import DAY_MS, TIME_MS_MAX, format_time, parse_time
from api.faults import Rejected
from api.schedule import ScheduleSpec, occurrences
from api.schedule.cron import DayTimes, ticks
from api.schedule.syntax import parse_expression

GOLDEN = Path(__file__).with_name("golden_cron.txt")
OCCURRENCES_PER_LINE = 8

EXPRESSIONS = [
    "* * * * *",
    "*/20 * * * *",
    "30 * * * *",
    "0 */2 * * *",
    "30 2 * * *",
    "15,45 2 * * *",
    "0 2,3 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "1 0 * * *",
    "*/30 1-3 * * *",
    "5/10 2 * * *",
    "0 22-2 * * *",
    "30 1 * * 1-5",
    "0 3 * * fri-mon",
    "0 4 1,15 * *",
    "0 4 13 * 5",
    "0 0 31 * *",
    "0 12 L * *",
    "0 12 15W * *",
    "0 12 1W * *",
    "0 9 * * 5#2",
    "0 9 * * 1#5",
    "0 9 * * 5L",
    "0 0 29 2 *",
    "0 6 */10 jan-mar *",
    "30 0 2 * * *",
    "*/20 59 23 31 12 *",
    "0 0 0 * * 7",
    "10 */15 1-2 * * *",
]
STARTS = [
    ("UTC", "2026-01-31T22:59:59Z"),
    ("Europe/Berlin", "2026-03-29T00:40:00Z"),
    ("Europe/Berlin", "2026-10-25T00:10:00Z"),
    ("America/New_York", "2026-11-01T04:59:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T14:20:00Z"),
    ("Pacific/Chatham", "2026-09-26T13:40:00Z"),
    ("America/St_Johns", "2010-11-07T02:20:00Z"),
    ("America/Havana", "2026-03-08T04:50:00Z"),
    ("Pacific/Apia", "2011-12-30T09:30:00Z"),
    ("Antarctica/Troll", "2026-03-29T00:20:00Z"),
]


def golden_line(expression: str, zone: str, start: str) -> str:
    fields, _ = parse_expression(expression, b"")
    assert fields is not None
    spec = ScheduleSpec(kind="cron", expression=fields.text, timezone=zone)
    start_ms = parse_time(start)
    fires = occurrences(spec, start_ms, TIME_MS_MAX, OCCURRENCES_PER_LINE)
    stamps = [format_time(fire_ms).removesuffix(".000Z") for fire_ms in fires]
    return f"{expression} | {zone} | {start} | {' '.join(stamps)}"


def golden_text() -> str:
    lines = [golden_line(expression, *start) for expression, start in product(EXPRESSIONS, STARTS)]
    return "\n".join(lines) + "\n"


def test_the_golden_file_holds() -> None:
    """No release of croniter or of the time zones changes an occurrence unnoticed."""
    assert GOLDEN.read_text().splitlines() == golden_text().splitlines()


CANONICAL = [
    "* * * * *",
    "*/7 */5 * * *",
    "0-30/5,45 9-17 1,15 * *",
    "3 4 31 1-6/2 *",
    "0 0 L 2,4 *",
    "0 12 31W * *",
    "0 0 * * 5#5",
    "0 0 * 2 L0",
    "0 6 13 * 5",
    "0 6 1-31 * 1",
    "0 6 */2 * 1-3",
    "*/25 */40 23 * * *",
    "59 59 23 29 2 *",
]


@pytest.mark.parametrize("expression", CANONICAL)
def test_ticks_are_those_that_croniter_lists_without_a_zone(expression: str) -> None:
    """Days from croniter times the values of a day are what croniter finds by itself."""
    known = ticks(expression)
    # croniter reads the star in one day field as a hint about the other, so it is spelt out.
    plain = expression.replace("1-31", ",".join(map(str, range(1, 32))))
    reference = croniter(plain, 1_600_000_000.0, second_at_beginning=True)
    wall_ms = 1_600_000_000_000
    for _ in range(60):
        tick = known.first_from(wall_ms + 1)
        assert tick is not None
        assert tick == int(reference.get_next(float)) * 1000
        wall_ms = tick


def test_a_tick_at_the_asked_time_counts() -> None:
    """The first tick from its own time on is itself; a millisecond later it is the next."""
    known = ticks("30 2 * * *")
    assert known.first_from(150 * 60_000) == 150 * 60_000
    assert known.first_from(150 * 60_000 + 1) == 150 * 60_000 + DAY_MS
    assert known.first_from(-1) == 150 * 60_000


def test_there_are_no_ticks_beyond_the_year_9999() -> None:
    """The calendar ends, and so does an expression, without an error."""
    assert ticks("0 0 1 1 *").first_from(TIME_MS_MAX - DAY_MS) is None
    assert ticks("0 0 * * *").first_from(TIME_MS_MAX) is None
    assert ticks("59 23 * * *").first_from(TIME_MS_MAX - DAY_MS) is not None


def test_times_of_a_day_are_counted_and_found_alike() -> None:
    """The number of times before the n-th time of a day is n."""
    times = DayTimes((0, 3, 23), (5, 7, 59), (0, 59))
    listed = [times.at(index) for index in range(times.total)]
    assert all(earlier < later for earlier, later in pairwise(listed))
    for index, time_ms in enumerate(listed):
        assert times.count_before(time_ms) == index
        assert times.count_before(time_ms + 1) == index + 1
    assert times.count_before(0) == 0
    assert times.count_before(DAY_MS) == times.total


@pytest.mark.parametrize("expression", ["", "61 * * * *", "R * * * *", "@daily x"])
def test_what_is_not_an_expression_is_rejected(expression: str) -> None:
    """A text that never passed the grammar cannot become ticks."""
    with pytest.raises(Rejected):
        ticks(expression)


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
