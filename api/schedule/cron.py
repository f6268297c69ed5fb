"""The wall-clock times that a cron expression names, enumerated by croniter.

croniter is asked two things it does well, both without any time zone: which values each
field of an expression stands for, and which calendar days match the day of the month, the
month and the day of the week, with `L`, `W` and `#`. What to do where a wall clock jumps is
decided elsewhere (`api.schedule.wall`), for its own answers differ between releases. The
times within a day are a product of three short lists, so they are counted and found by
bisection; a tick costs a microsecond or two, and days are asked for once and remembered.

Wall-clock time is a number here too: the milliseconds that UTC would show if its clocks
read the same. The caches are not meant for several threads at once.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

from croniter import CroniterError, croniter

from api.durations import DAY_MS, SECOND_MS, TIME_MS_MAX
from api.faults import Rejected, shown
from api.schedule.fields import Field, Fields
from api.schedule.syntax import read_canonical

# As many distinct expressions as a busy cluster has; one takes about two kilobytes.
TICKS_CACHED_MAX = 8_192
# Patterns of days are few ("* * 1-5" and the like); each holds a croniter of some 5 kB.
DAYS_CACHED_MAX = 1_024
# A hundred patterns over two years; an entry is three small objects.
MATCHES_CACHED_MAX = 65_536

_DAY_LAST = TIME_MS_MAX // DAY_MS
_DAY_SECONDS = DAY_MS // SECOND_MS


class DayTimes(NamedTuple):
    """The times of a day at which an expression fires: every hour x minute x second."""

    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]

    @property
    def total(self) -> int:
        return len(self.hours) * len(self.minutes) * len(self.seconds)

    def at(self, index: int) -> int:
        """Return the time of the `index`-th tick of a day, in milliseconds since midnight."""
        rest, second = divmod(index, len(self.seconds))
        hour, minute = divmod(rest, len(self.minutes))
        clock_s = self.hours[hour] * 3600 + self.minutes[minute] * 60 + self.seconds[second]
        return clock_s * SECOND_MS

    def count_before(self, time_ms: int) -> int:
        """Return how many ticks of a day come before `time_ms`, itself not included."""
        rest, second = divmod(-(-time_ms // SECOND_MS), 60)
        hour, minute = divmod(rest, 60)
        count = bisect_left(self.hours, hour)
        if count == len(self.hours) or self.hours[count] != hour:
            return count * len(self.minutes) * len(self.seconds)
        index = bisect_left(self.minutes, minute)
        count = count * len(self.minutes) + index
        if index == len(self.minutes) or self.minutes[index] != minute:
            return count * len(self.seconds)
        return count * len(self.seconds) + bisect_left(self.seconds, second)


class Ticks:
    """All wall-clock ticks of one expression, in order."""

    __slots__ = ("_days", "fields", "times")

    def __init__(self, fields: Fields, times: DayTimes) -> None:
        self.fields = fields
        self.times = times
        self._days = " ".join(map(_explicit, (fields.day, fields.month, fields.weekday)))

    def first_from(self, wall_ms: int) -> int | None:
        """Return the first tick at or after `wall_ms`, None if there is none until 9999."""
        day, time_ms = divmod(wall_ms, DAY_MS)
        found = self.day_from(day)
        if found == day:
            index = self.times.count_before(time_ms)
            if index < self.times.total:
                return day * DAY_MS + self.times.at(index)
            found = self.day_from(day + 1)
        return None if found is None else found * DAY_MS + self.times.at(0)

    def day_from(self, day: int) -> int | None:
        """Return the first matching day at or after `day`, counted from 1970-01-01."""
        if self._days == "* * *":
            return day if day <= _DAY_LAST else None
        return _matching_day(self._days, day)


@lru_cache(maxsize=TICKS_CACHED_MAX)
def ticks(expression: str) -> Ticks:
    """Return the ticks of a canonical expression (see `api.schedule.syntax`).

    Raises:
        Rejected: it is not such an expression, or croniter refuses it.
    """
    fields = read_canonical(expression)
    try:
        _croniter(" ".join(map(_explicit, (fields.day, fields.month, fields.weekday))))
        return Ticks(fields, DayTimes(*_times(expression, seconds=fields.seconds)))
    except CroniterError as error:
        detail = f"{shown(expression)} is refused by the cron library: {error}."
        raise Rejected("cron_syntax", detail) from None


def _times(expression: str, *, seconds: bool) -> list[tuple[int, ...]]:
    """Return hours, minutes and seconds; croniter lists the minute first and seconds last."""
    expanded, _ = croniter.expand(expression, second_at_beginning=True)
    columns = [
        tuple(range(size)) if "*" in column else tuple(int(value) for value in column)
        for column, size in ((expanded[1], 24), (expanded[0], 60))
    ]
    if not seconds:
        return [*columns, (0,)]
    column = expanded[5]
    return [*columns, tuple(range(60)) if "*" in column else tuple(int(value) for value in column)]


def _explicit(field: Field) -> str:
    """Return a field as a plain list of values, or `*`.

    croniter treats `*/2` and ranges over all values differently depending on the star in
    the text of the other day field; a list of numbers leaves it nothing to interpret.
    """
    if not field.restricted:
        return "*"
    return ",".join([*map(str, field.values), *field.specials])


@lru_cache(maxsize=DAYS_CACHED_MAX)
def _croniter(days: str) -> croniter[float]:
    return croniter(f"0 0 {days}", 0.0)


@lru_cache(maxsize=MATCHES_CACHED_MAX)
def _matching_day(days: str, day: int) -> int | None:
    """Ask croniter for the first midnight after the last second of the day before."""
    try:
        found_s = _croniter(days).get_next(float, start_time=float(day * _DAY_SECONDS - 1))
    except (ValueError, OverflowError):
        # Nothing within its fifty years, or the calendar ended while it was looking.
        return None
    return int(found_s) // _DAY_SECONDS
