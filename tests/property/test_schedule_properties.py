"""The schedule module against a reference that is too simple to be wrong.

The reference walks through real time minute by minute and looks at the wall clock as Debian's
cron(8) does; it shares nothing with the code under test but the time zone data. Expressions
are drawn as sets of values together with their text, so it reads no cron syntax either.
CRONCLAVE_SCHEDULE_CASES multiplies the number of cases.
"""

from __future__ import annotations

import calendar
import os
import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest

from api.durations import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    parse_time,
)
from api.schedule import (
    ScheduleSpec,
    missed_summary,
    next_occurrence,
    occurrences,
    parse_schedule,
)
from api.schedule import wall as schedule_wall
from api.schedule.spec import FoldRule, GapRule
from api.schedule.zones import zone

SCALE = int(os.environ.get("CRONCLAVE_SCHEDULE_CASES", "1"))
CASES_PER_ZONE = 110 * SCALE
NOW_MS = parse_time("2026-11-23T10:00:00Z")
CORRECTION_MINUTES = 180
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "America/St_Johns",
    "America/Havana",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Santiago",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Tehran",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "Asia/Gaza",
    "UTC",
]


@dataclass(frozen=True)
class Drawn:
    """A field of an expression: its text and what it stands for."""

    text: str
    values: frozenset[int]

    @property
    def starred(self) -> bool:
        return self.text.startswith("*")


def draw_field(chance: random.Random, low: int, high: int, near: tuple[int, ...]) -> Drawn:
    """Draw one of the ways to write a field, often with values that transitions fall on."""
    everything = range(low, high + 1)
    shape = chance.choice(["*", "*/n", "a", "a", "list", "range", "range/n", "wrap", "a/n"])
    first = chance.choice(near) if chance.random() < 0.7 else chance.choice(everything)
    if shape.startswith("*"):
        step = 1 if shape == "*" else chance.randint(2, len(everything) - 1)
        return Drawn("*" if step == 1 else f"*/{step}", frozenset(everything[::step]))
    if shape == "list":
        values = {first, *chance.choices(everything, k=2)}
        return Drawn(",".join(map(str, values)), frozenset(values))
    if shape.startswith("range") and first < high:
        last = chance.randint(first + 1, high)
        step = chance.randint(1, last - first) if shape == "range/n" else 1
        values = set(range(first, last + 1, step))
        return Drawn(f"{first}-{last}/{step}", frozenset(values))
    if shape == "wrap" and first - low >= 2:
        last = chance.randint(low, first - 1)
        values = {*range(first, high + 1), *range(low, last + 1)}
        return Drawn(f"{first}-{last}", frozenset(values))
    if shape == "a/n" and first < high - 1:
        step = chance.randint(1, high - first)
        return Drawn(f"{first}/{step}", frozenset(range(first, high + 1, step)))
    return Drawn(str(first), frozenset({first}))


class Days:
    """The day fields of an expression, drawn; a set of values or a rule by the calendar."""

    def __init__(self, chance: random.Random, near: date) -> None:
        self.day = draw_field(chance, 1, 31, (near.day, 1, 31))
        self.month = draw_field(chance, 1, 12, (near.month,))
        self.weekday = draw_field(chance, 0, 6, (near.isoweekday() % 7,))
        if chance.random() < 0.6:
            self.day = Drawn("*", frozenset(range(1, 32)))
        if chance.random() < 0.6:
            self.weekday = Drawn("*", frozenset(range(7)))
        if chance.random() < 0.7:
            self.month = Drawn("*", frozenset(range(1, 13)))
        self.special = ""
        if chance.random() < 0.25:
            self._draw_special(chance)

    def _draw_special(self, chance: random.Random) -> None:
        everyday = Drawn("*", frozenset())
        weekday, nth, day = chance.randint(0, 6), chance.randint(1, 5), chance.randint(1, 31)
        self.special = chance.choice(["L", f"{day}W", f"{weekday}#{nth}", f"{weekday}L"])
        if self.special == "L" or self.special.endswith("W"):
            self.day, self.weekday = Drawn(self.special, frozenset()), everyday
        else:
            self.day, self.weekday = everyday, Drawn(self.special, frozenset())

    @property
    def text(self) -> str:
        return f"{self.day.text} {self.month.text} {self.weekday.text}"

    def match(self, day: date) -> bool:
        if day.month not in self.month.values:
            return False
        if self.special:
            return self._special_match(day)
        day_matches = day.day in self.day.values
        weekday_matches = day.isoweekday() % 7 in self.weekday.values
        if self.day.text != "*" and self.weekday.text != "*":
            return day_matches or weekday_matches
        return day_matches and weekday_matches

    def _special_match(self, day: date) -> bool:
        length = calendar.monthrange(day.year, day.month)[1]
        if self.special == "L":
            return day.day == length
        if self.special.endswith("W"):
            aim = day.replace(day=min(int(self.special[:-1]), length))
            workdays = [
                day.replace(day=number)
                for number in range(1, length + 1)
                if day.replace(day=number).isoweekday() <= 5
            ]
            nearest = min(workdays, key=lambda workday: abs((workday - aim).days))
            return day == nearest
        same = day.isoweekday() % 7 == int(self.special[0])
        if self.special.endswith("L"):
            return same and day.day > length - 7
        return same and (day.day - 1) // 7 + 1 == int(self.special[2:])


class Clock:
    """The wall clock of a zone for three days around an instant, minute by minute."""

    def __init__(self, name: str, middle_ms: int) -> None:
        self.start_ms = (middle_ms - 36 * HOUR_MS) // MINUTE_MS * MINUTE_MS
        self.end_ms = self.start_ms + 3 * DAY_MS
        info = ZoneInfo(name)
        self.walls: list[int] = []
        for now_ms in range(self.start_ms, self.end_ms + 1, MINUTE_MS):
            local = datetime.fromtimestamp(now_ms // 1000, info).replace(tzinfo=UTC)
            self.walls.append(int(local.timestamp()) // 60)


@lru_cache(maxsize=1024)
def clock(name: str, middle_ms: int) -> Clock:
    return Clock(name, middle_ms)


@lru_cache(maxsize=64)
def transitions_ms(name: str) -> list[int]:
    """Return noons of the days, 1993 to 2035, in which the offset of a zone changes."""
    info = ZoneInfo(name)
    noon = datetime(1993, 1, 1, 12, tzinfo=UTC)
    found = []
    before = noon.astimezone(info).utcoffset()
    while noon.year < 2036:
        noon += timedelta(days=1)
        after = noon.astimezone(info).utcoffset()
        if after != before:
            found.append(int(noon.timestamp()) * 1000 - DAY_MS // 2)
        before = after
    return found or [NOW_MS]


def debian(
    clock: Clock, minute: Drawn, hour: Drawn, days: Days, gap: GapRule, fold: FoldRule
) -> list[int]:
    """Return when Debian's cron would start the job, looking at its clock every minute."""
    known: dict[int, bool] = {}

    def match(wall: int) -> bool:
        if wall % 60 not in minute.values or wall // 60 % 24 not in hour.values:
            return False
        day = wall // 1440
        if day not in known:
            known[day] = days.match(date(1970, 1, 1) + timedelta(days=day))
        return known[day]

    fixed = not (minute.starred or hour.starred)
    fires = []
    already_run = -1
    last = clock.walls[0] - 1
    for index, wall in enumerate(clock.walls):
        jump = wall - last - 1
        fires_now = match(wall)
        if fixed and abs(jump) <= CORRECTION_MINUTES:
            if jump > 0 and gap == "run_after":
                fires_now = any(match(missed) for missed in range(last + 1, wall + 1))
            if jump < 0 and fold == "first":
                already_run = last
        if fires_now and wall > already_run:
            fires.append(clock.start_ms + index * MINUTE_MS)
        last = wall
    return fires


@pytest.mark.parametrize("name", ZONES)
def test_cron_agrees_with_a_minute_by_minute_walk_around_every_kind_of_jump(name: str) -> None:
    """Fixed times run once at a gap and once at a fold, others follow real time."""
    chance = random.Random(f"jumps {name}")
    for _ in range(CASES_PER_ZONE):
        around = clock(name, chance.choice(transitions_ms(name)))
        wall = datetime.fromtimestamp(around.start_ms / 1000, ZoneInfo(name)) + timedelta(days=1)
        minute = draw_field(chance, 0, 59, (0, 1, 15, 30, 45, 59))
        hour = draw_field(chance, 0, 23, (0, 1, 2, 3, 23))
        days = Days(chance, wall.date())
        gap: GapRule = chance.choice(["run_after", "run_after", "skip"])
        fold: FoldRule = chance.choice(["first", "first", "both"])
        expected = debian(around, minute, hour, days, gap, fold)
        raw: dict[str, object] = {
            "cron": f"{minute.text} {hour.text} {days.text}",
            "timezone": name,
            "dst": {"gap": gap, "fold": fold},
        }
        spec = accepted(raw)
        if spec is None:
            assert not expected, raw
            continue
        check_against(spec, expected, around, chance, raw)


def accepted(raw: dict[str, object]) -> ScheduleSpec | None:
    """Return the specification, or None if it can never fire; nothing else is refused."""
    spec, faults = parse_schedule(raw, now_ms=0, seed=b"seed")
    assert all(fault.code == "cron_never_fires" for fault in faults), (raw, faults)
    return spec


def check_against(
    spec: ScheduleSpec, expected: list[int], around: Clock, chance: random.Random, raw: object
) -> None:
    start_at, end_at = around.start_ms, around.end_ms
    found = occurrences(spec, start_at - 1, end_at, 10_000)
    assert found == expected, raw
    # Asking from any instant gives what iterating gives.
    for _ in range(3):
        after_ms = chance.randint(start_at - 1, end_at - 1)
        later = [fire for fire in expected if fire > after_ms]
        answer = next_occurrence(spec, after_ms)
        assert answer == later[0] if later else answer is None or answer > end_at, (raw, after_ms)
    low, high = sorted(chance.randint(start_at, end_at) for _ in range(2))
    inside = [fire for fire in expected if low <= fire <= high]
    missed = missed_summary(spec, low, high, 3)
    assert missed.complete
    assert (missed.count, missed.kept) == (len(inside), inside[-3:]), (raw, low, high)
    assert [missed.first_ms, missed.last_ms] == ([inside[0], inside[-1]] if inside else [None] * 2)


def test_rare_days_agree_with_a_walk_through_the_calendar() -> None:
    """Leap days, last days, nearest weekdays and nth weekdays are found years ahead."""
    chance = random.Random("rare days")
    for _ in range(120 * SCALE):
        begin = date(chance.randint(1990, 2080), chance.randint(1, 12), chance.randint(1, 28))
        days = Days(chance, begin)
        spec = accepted({"cron": f"30 12 {days.text}"})
        expected = []
        for step in range(1500):
            day = begin + timedelta(days=step)
            if days.match(day):
                noon = datetime(day.year, day.month, day.day, 12, 30, tzinfo=UTC)
                expected.append(int(noon.timestamp()) * 1000)
        if spec is None:
            assert not expected, days.text
            continue
        begin_ms = int(datetime(begin.year, begin.month, begin.day, tzinfo=UTC).timestamp()) * 1000
        until_ms = begin_ms + 1500 * DAY_MS - 1
        assert occurrences(spec, begin_ms - 1, until_ms, 20) == expected[:20], days.text
        missed = missed_summary(spec, begin_ms, until_ms, 2)
        while not missed.complete:
            assert missed.resume_ms is not None
            rest = missed_summary(spec, missed.resume_ms, until_ms, 2)
            assert missed.count <= 1000
            expected = expected[missed.count :]
            missed = rest
        assert (missed.count, missed.kept) == (len(expected), expected[-2:]), days.text


@pytest.mark.parametrize("name", ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"])
def test_seconds_agree_with_a_second_by_second_walk(name: str) -> None:
    """With six fields the first is the second, and jumps are handled as with five."""
    chance = random.Random(f"seconds {name}")
    info = ZoneInfo(name)
    for _ in range(6 * SCALE):
        day_ms = chance.choice(transitions_ms(name))
        jump_ms = zone(name).segment(day_ms - DAY_MS).end_ms
        second = draw_field(chance, 0, 59, (0, 30, 59))
        hour = draw_field(chance, 0, 23, (0, 1, 2, 3))
        spec = accepted({"cron": f"{second.text} * {hour.text} * * *", "timezone": name})
        assert spec is not None
        begin_ms, until_ms = jump_ms - HOUR_MS, jump_ms + 2 * HOUR_MS
        expected = []
        for now_ms in range(begin_ms, until_ms + 1, 1000):
            local = datetime.fromtimestamp(now_ms // 1000, info)
            if local.second in second.values and local.hour in hour.values:
                expected.append(now_ms)
        assert occurrences(spec, begin_ms - 1, until_ms, 20_000) == expected, spec


@pytest.mark.parametrize("bound", [1, 2, 7])
def test_a_bounded_count_goes_on_where_it_stopped(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a count that was cut add up to the whole, with the same last ones."""
    chance = random.Random(f"bounded {bound}")
    for _ in range(60):
        name = chance.choice(ZONES)
        around = clock(name, chance.choice(transitions_ms(name)))
        minute = draw_field(chance, 0, 59, (0, 30))
        hour = draw_field(chance, 0, 23, (0, 1, 2, 3))
        spec = accepted({"cron": f"{minute.text} {hour.text} * * *", "timezone": name})
        assert spec is not None
        whole = missed_summary(spec, around.start_ms, around.end_ms, 2)
        with monkeypatch.context() as patch:
            patch.setattr(schedule_wall, "DAYS_SCANNED_MAX", bound)
            patch.setattr(schedule_wall, "SPAN_SCANNED_MS_MAX", 26 * HOUR_MS)
            count, kept, from_ms = 0, list[int](), around.start_ms
            complete = False
            while not complete:
                part = missed_summary(spec, from_ms, around.end_ms, 2)
                count, kept = count + part.count, [*kept, *part.kept][-2:]
                complete, from_ms = part.complete, part.resume_ms or 0
        assert (count, kept) == (whole.count, whole.kept), spec
