"""Time zones: one source for all members, and the instants at which offsets change.

`zoneinfo` prefers the host's files to the `tzdata` wheel, and hosts differ: two members
would then plan the same job for different instants. The search path is therefore emptied
before any zone is loaded, which leaves the wheel as the only source. A zone is presented
as a sequence of segments of constant UTC offset; that is all the schedule code needs to
know about daylight saving, and finding it takes nothing but `utcoffset`: offsets are
probed at a fixed step, and where two probes differ the change is bisected to the second.
"""

from __future__ import annotations

import difflib
import zoneinfo
from bisect import bisect_right
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import tzdata  # type: ignore[import-untyped]

from api.durations import DAY_MS, SECOND_MS, TIME_MS_MAX
from api.faults import Rejected, shown

zoneinfo.reset_tzpath(to=[])
zoneinfo.ZoneInfo.clear_cache()

UTC_NAME = "UTC"
# Files that the wheel, or a host, keeps beside the zones and that are none.
NOT_ZONES = frozenset({"localtime", "posixrules", "Factory"})
# "America/Argentina/ComodRivadavia" has 32 characters; longer is not worth comparing.
NAME_CHARACTERS_MAX = 64
# Must lie below the shortest time between two changes of offset in any zone since 1970,
# which is just under seven days (Gaza 2040, Recife 2000); a test checks it for the wheel.
PROBE_STEP_MS = 2 * DAY_MS
# Segments are computed and cached by blocks; 400 days hold about three of them and take
# 200 probes, a quarter of a millisecond.
BLOCK_MS = 200 * PROBE_STEP_MS
# Every zone of the wheel for several years ahead, at about a kilobyte a block.
BLOCKS_CACHED_MAX = 4_096
# Python's calendar ends with the year 9999; offsets are not looked up in its last days,
# where the local time may lie beyond the end.
LOOKUP_MS_MAX = TIME_MS_MAX - 2 * DAY_MS
_END_MS = 2 * TIME_MS_MAX


class Segment(NamedTuple):
    """A stretch of time, from `start_ms` up to but not including `end_ms`, of one offset.

    `offset_before_ms` is the offset just before the start. It may equal `offset_ms`: a
    long time without a change is cut into segments, which may then overlap.
    """

    start_ms: int
    end_ms: int
    offset_ms: int
    offset_before_ms: int


class Zone:
    """A named time zone of the wheel."""

    __slots__ = ("info", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.info = zoneinfo.ZoneInfo(name)

    def segment(self, at_ms: int) -> Segment:
        """Return the segment that holds the instant `at_ms`."""
        starts_ms, segments = _segments(self.name, at_ms // BLOCK_MS)
        return segments[bisect_right(starts_ms, at_ms) - 1]

    def local(self, at_ms: int) -> str:
        """Return the local time with its offset, such as "2026-11-23T10:00:00+01:00"."""
        seconds, milliseconds = divmod(at_ms, SECOND_MS)
        local = datetime.fromtimestamp(seconds, self.info).replace(microsecond=milliseconds * 1000)
        return local.isoformat(timespec="milliseconds" if milliseconds else "seconds")


def tzdata_version() -> str:
    """Return the release of the IANA database in use, such as "2026f"."""
    return str(tzdata.IANA_VERSION)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the names of all zones that may be used."""
    return frozenset(zoneinfo.available_timezones() - NOT_ZONES)


# Bounded by the number of names in the wheel, for unknown ones raise and are not kept.
@lru_cache(maxsize=1_024)
def zone(name: str | None) -> Zone:
    """Return the zone called `name` (IANA, case-sensitive); None means UTC.

    Raises:
        Rejected: there is no such zone in the wheel.
    """
    if name is None:
        return zone(UTC_NAME)
    if name not in zone_names():
        raise Rejected("unknown_timezone", _unknown_detail(name))
    return Zone(name)


def parse_zone(value: object) -> str:
    """Return `value` if it is the name of a zone.

    Raises:
        Rejected: it is not a text, or there is no such zone.
    """
    if not isinstance(value, str):
        raise Rejected(
            "wrong_type", f'A time zone is a name such as "Europe/Berlin", not {shown(value)}.'
        )
    return zone(value).name


def _unknown_detail(name: str) -> str:
    meant = _closest(name) if 0 < len(name) <= NAME_CHARACTERS_MAX else None
    hint = f'did you mean "{meant}"?' if meant else 'use an IANA name such as "Europe/Berlin".'
    return f"{shown(name)} is not a time zone of tzdata {tzdata_version()}; {hint}"


def _closest(name: str) -> str | None:
    folded = {known.casefold(): known for known in sorted(zone_names())}
    wanted = name.strip().replace(" ", "_").casefold()
    if wanted in folded:
        return folded[wanted]
    cities = {known.rpartition("/")[2]: known for known in folded}
    if wanted in cities:
        return folded[cities[wanted]]
    found = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


@lru_cache(maxsize=BLOCKS_CACHED_MAX)
def _segments(name: str, block: int) -> tuple[list[int], list[Segment]]:
    """Return the segments that touch a block, and their starts, for bisection.

    The neighbouring blocks are looked at too, so that a change of offset shortly before
    the block is the start of its first segment and not lost at the seam.
    """
    first, last = (block - 1) * BLOCK_MS, (block + 2) * BLOCK_MS
    changes = [change for near in (-1, 0, 1) for change in _changes(name, block + near)]
    starts = [first, *changes]
    ends = [*changes, last if last <= LOOKUP_MS_MAX else _END_MS]
    offsets = [_offset_ms(name, start) for start in starts]
    segments = [
        Segment(start, end, offset, before)
        for start, end, offset, before in zip(
            starts, ends, offsets, [offsets[0], *offsets], strict=False
        )
    ]
    return starts, segments


@lru_cache(maxsize=BLOCKS_CACHED_MAX)
def _changes(name: str, block: int) -> tuple[int, ...]:
    """Return the instants in a block at which the offset changes, the block's start included."""
    found = []
    start_ms = block * BLOCK_MS - SECOND_MS
    before_ms = _offset_ms(name, start_ms)
    for step in range(1, BLOCK_MS // PROBE_STEP_MS + 1):
        probe_ms = start_ms + step * PROBE_STEP_MS
        offset_ms = _offset_ms(name, probe_ms)
        if offset_ms != before_ms:
            found.append(_bisected(name, probe_ms - PROBE_STEP_MS, probe_ms))
            before_ms = offset_ms
    return tuple(found)


def _bisected(name: str, low_ms: int, high_ms: int) -> int:
    """Return the first second in (low, high] that has the offset of `high_ms`."""
    after_ms = _offset_ms(name, high_ms)
    low_s, high_s = low_ms // SECOND_MS, high_ms // SECOND_MS
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if _offset_ms(name, middle_s * SECOND_MS) == after_ms:
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s * SECOND_MS


def _offset_ms(name: str, at_ms: int) -> int:
    at_s = min(at_ms, LOOKUP_MS_MAX) // SECOND_MS
    offset = datetime.fromtimestamp(at_s, zone(name).info).utcoffset()
    return 0 if offset is None else offset.days * DAY_MS + offset.seconds * SECOND_MS
