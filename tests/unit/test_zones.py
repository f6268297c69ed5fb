"""Time zones: where they come from, and where their offsets change."""

from __future__ import annotations

import struct
from importlib.resources import files
from itertools import pairwise

import pytest

from api.durations import (
    SECOND_MS,
)
from api.faults import Rejected
from api.schedule.zones import PROBE_STEP_MS, tzdata_version, zone, zone_names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/berlin", "Europe/Berlin"),
        ("europe/Berln", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
    ],
)
def test_a_misspelt_zone_is_answered_with_the_right_one(name: str, meant: str) -> None:
    """Zone names are case-sensitive, so the answer says which was meant."""
    with pytest.raises(Rejected, match=f'did you mean "{meant}"'):
        zone(name)


def test_zones_come_from_the_wheel_alone() -> None:
    """Names that stand for the host's own zone are not among them."""
    assert tzdata_version()[:4].isdecimal()
    assert {"UTC", "Europe/Berlin"} <= zone_names()
    assert not {"localtime", "posixrules", "Factory"} & zone_names()
    assert zone(None).name == "UTC"


def offset_changes_s(name: str) -> list[int]:
    """Read the changes of offset since 1970 from a file of the wheel (RFC 8536, version 2)."""
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    at = 0
    for width in (4, 8):
        header = struct.unpack_from(">4s16x6l", data, at)
        isut, isstd, leaps, times, types, characters = header[1:]
        body = at + 44
        at = body + times * (width + 1) + types * 6 + characters + leaps * (width + 4)
        at += isstd + isut
    instants = struct.unpack_from(f">{times}q", data, body)
    kinds = data[body + 8 * times : body + 9 * times]
    offsets = [
        struct.unpack_from(">l", data, body + 9 * times + 6 * kind)[0] for kind in range(types)
    ]
    return [
        instant
        for instant, before, after in zip(
            instants,
            [offsets[0], *(offsets[kind] for kind in kinds)],
            (offsets[kind] for kind in kinds),
            strict=False,
        )
        if before != after and instant >= 0
    ]


def test_no_zone_changes_its_offset_twice_between_two_probes() -> None:
    """Changes closer together than the step at which they are looked for would be missed."""
    checked = 0
    for name in sorted(zone_names()):
        for earlier_s, later_s in pairwise(offset_changes_s(name)):
            assert (later_s - earlier_s) * SECOND_MS > PROBE_STEP_MS, name
            checked += 1
    assert checked > 10_000


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia", "Asia/Gaza"]
)
def test_segments_end_where_the_database_says(name: str) -> None:
    """The changes found by probing are those of the file, to the second."""
    changes_ms = [change_s * SECOND_MS for change_s in offset_changes_s(name)]
    at_ms = changes_ms[0] - 1
    found = []
    while at_ms < changes_ms[-1]:
        segment = zone(name).segment(at_ms)
        following = zone(name).segment(segment.end_ms)
        if following.offset_ms != segment.offset_ms:
            found.append(segment.end_ms)
            assert following.offset_before_ms == segment.offset_ms
        at_ms = segment.end_ms
    assert found == changes_ms
