"""From wall-clock ticks to instants: what happens where a clock jumps.

An instant is found by walking through the stretches of constant UTC offset. Within one,
wall-clock time and UTC differ by a constant and nothing can go wrong; everything that can
is decided where two of them meet. The rules are those of Debian's cron(8):

* A gap (clocks go forward): ticks of fixed times that the gap swallows run once, all of
  them together, at the instant after it. The others follow real time and skip it.
* A fold (clocks go back): ticks of fixed times run in the first pass only. The others
  follow real time and run in both.
* A jump of more than three hours is a correction of the calendar (Samoa dropped a whole day
  in 2011), and no special rule applies.

Neither walking nor counting can go on for ever: a walk ends with the calendar, a count
after `DAYS_SCANNED_MAX` days that fire or `SPAN_SCANNED_MS_MAX`, and says where to go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from api.durations import DAY_MS, HOUR_MS
from api.schedule.cron import Ticks
from api.schedule.zones import Segment, Zone

# More than this is no daylight saving, by Debian's cron(8).
CORRECTION_MS_MIN = 3 * HOUR_MS + 1
# Days looked at in one count: nearly three years of a daily job. If croniter has to be asked
# for every one of them that is some 60 ms, about the longest the loop should be held up.
DAYS_SCANNED_MAX = 1_000
# The same for expressions that hardly ever fire, where the zone is what is walked through.
SPAN_SCANNED_MS_MAX = 10 * 366 * DAY_MS


@dataclass(frozen=True, slots=True)
class JumpRule:
    """What an expression does at a jump of the clock; see the head of the module."""

    gap_runs_after: bool
    fold_runs_once: bool


class Stretch(NamedTuple):
    """Wall-clock times, from `wall_from` up to but not including `wall_until`.

    A tick in it happens at its wall time less `offset_ms`; if `at_ms` is set, the stretch is
    a gap, and all ticks in it together happen once, then.
    """

    wall_from: int
    wall_until: int
    offset_ms: int
    at_ms: int | None = None

    def instant(self, tick: int) -> int:
        return tick - self.offset_ms if self.at_ms is None else self.at_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Nominal occurrences between two instants.

    `kept` are the last of them in order. If `complete` is false, the work was bounded: the
    numbers hold up to but not including `resume_ms`, from where to ask again.
    """

    count: int
    first_ms: int | None
    last_ms: int | None
    kept: list[int]
    complete: bool = True
    resume_ms: int | None = None


def next_instant(ticks: Ticks, zone: Zone, rule: JumpRule, after_ms: int) -> int | None:
    """Return the first instant after `after_ms` at which the ticks happen in the zone."""
    tick: int | None = None
    asked_from: int | None = None
    for stretch in _stretches(zone, rule, after_ms):
        if tick is None or asked_from is None or not asked_from <= stretch.wall_from <= tick:
            asked_from = stretch.wall_from
            tick = ticks.first_from(asked_from)
            if tick is None:
                return None
        if tick < stretch.wall_until:
            return stretch.instant(tick)
    return None


def _stretches(zone: Zone, rule: JumpRule, after_ms: int) -> Iterator[Stretch]:
    """Yield the wall-clock times after an instant, jump by jump, without an end."""
    segment = zone.segment(after_ms)
    offset_ms = segment.offset_ms
    wall_from = max(after_ms + 1 + offset_ms, _first_wall(segment, rule))
    while True:
        wall_until = segment.end_ms + offset_ms
        if wall_from < wall_until:
            yield Stretch(wall_from, wall_until, offset_ms)
        following = zone.segment(segment.end_ms)
        gap_ms = following.offset_ms - offset_ms
        if 0 < gap_ms < CORRECTION_MS_MIN and rule.gap_runs_after:
            yield Stretch(wall_until, wall_until + gap_ms, offset_ms, segment.end_ms)
        # A segment may reach back before the end of the last one; never walk a time twice.
        wall_from = max(segment.end_ms + following.offset_ms, _first_wall(following, rule))
        segment, offset_ms = following, following.offset_ms


def _first_wall(segment: Segment, rule: JumpRule) -> int:
    """Return the first wall-clock time in a segment that counts: after the fold, if any."""
    fold_ms = segment.offset_before_ms - segment.offset_ms
    passed = rule.fold_runs_once and 0 < fold_ms < CORRECTION_MS_MIN
    return segment.start_ms + segment.offset_ms + (fold_ms if passed else 0)


class _Piece(NamedTuple):
    """Ticks number `low` to `high` - 1 of one day, or one instant if `at_ms` is set."""

    day: int
    low: int
    high: int
    offset_ms: int
    at_ms: int | None = None

    def instants(self, ticks: Ticks, last: int) -> list[int]:
        """Return the last `last` instants of the piece, latest first."""
        if self.at_ms is not None:
            return [self.at_ms]
        start_ms = self.day * DAY_MS - self.offset_ms
        low = max(self.low, self.high - last)
        return [start_ms + ticks.times.at(index) for index in range(self.high - 1, low - 1, -1)]


def count_instants(
    ticks: Ticks, zone: Zone, rule: JumpRule, from_ms: int, until_ms: int, keep_last: int
) -> Missed:
    """Count the instants in [from_ms, until_ms] by days, not one by one.

    A year of a job of every second costs 365 steps. The last `keep_last` are listed.
    """
    first_ms = next_instant(ticks, zone, rule, from_ms - 1)
    count = held = 0
    tail = deque[_Piece]()
    end_ms = min(until_ms, from_ms + SPAN_SCANNED_MS_MAX)
    resume_ms = None if end_ms == until_ms else end_ms + 1
    for scanned, piece in enumerate(_pieces(ticks, zone, rule, from_ms - 1, end_ms)):
        if scanned == DAYS_SCANNED_MAX:
            resume_ms = piece.day * DAY_MS + ticks.times.at(piece.low) - piece.offset_ms
            resume_ms = resume_ms if piece.at_ms is None else piece.at_ms
            break
        size = piece.high - piece.low
        count, held = count + size, held + size
        tail.append(piece)
        while held - (tail[0].high - tail[0].low) >= max(keep_last, 1):
            dropped = tail.popleft()
            held -= dropped.high - dropped.low
    latest = _latest(ticks, tail, max(keep_last, 1))
    return Missed(
        count=count,
        first_ms=first_ms if count else None,
        last_ms=latest[0] if count else None,
        kept=latest[:keep_last][::-1],
        complete=resume_ms is None,
        resume_ms=resume_ms,
    )


def _latest(ticks: Ticks, tail: deque[_Piece], wanted: int) -> list[int]:
    latest: list[int] = []
    for piece in reversed(tail):
        latest.extend(piece.instants(ticks, wanted - len(latest)))
    return latest


def _pieces(
    ticks: Ticks, zone: Zone, rule: JumpRule, after_ms: int, until_ms: int
) -> Iterator[_Piece]:
    """Yield the non-empty days between two instants, and the gaps that swallow ticks."""
    taken_ms = after_ms
    for stretch in _stretches(zone, rule, after_ms):
        if stretch.at_ms is not None:
            tick = ticks.first_from(stretch.wall_from)
            if tick is not None and tick < stretch.wall_until and stretch.at_ms <= until_ms:
                taken_ms = stretch.at_ms
                yield _Piece(0, 0, 1, stretch.offset_ms, taken_ms)
            continue
        # A tick at the very instant after a gap has already run as part of the gap.
        wall_from = max(stretch.wall_from, taken_ms + 1 + stretch.offset_ms)
        wall_until = min(stretch.wall_until, until_ms + 1 + stretch.offset_ms)
        yield from _days(ticks, wall_from, wall_until, stretch.offset_ms)
        if stretch.wall_until - stretch.offset_ms > until_ms:
            return


def _days(ticks: Ticks, wall_from: int, wall_until: int, offset_ms: int) -> Iterator[_Piece]:
    day: int | None = ticks.day_from(wall_from // DAY_MS)
    while day is not None and day * DAY_MS < wall_until:
        low = ticks.times.count_before(max(0, wall_from - day * DAY_MS))
        high = ticks.times.count_before(min(DAY_MS, wall_until - day * DAY_MS))
        if low < high:
            yield _Piece(day, low, high, offset_ms)
        day = ticks.day_from(day + 1)
