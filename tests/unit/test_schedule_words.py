"""Schedules: what they say about themselves, and what they warn of."""

from __future__ import annotations

import pytest

from api.durations import (
    parse_time,
)
from api.schedule import (
    ScheduleSpec,
    explain,
    parse_schedule,
)

NOW = "2026-11-23T10:00:00Z"
NOW_MS = parse_time(NOW)


def spec_of(raw: dict[str, object]) -> ScheduleSpec:
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"billing/report")
    assert spec is not None, faults
    return spec


def cron(expression: str, zone_name: str | None = None, **options: object) -> ScheduleSpec:
    zone_field = {} if zone_name is None else {"timezone": zone_name}
    return spec_of({"cron": expression, **zone_field, **options})


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
            "every day at 03:00 (Europe/Berlin)",
        ),
        ({"cron": "0 9 * * mon-fri"}, "every weekday (Monday to Friday) at 09:00 (UTC)"),
        ({"cron": "0 9,17 * * 1,5"}, "every Monday and Friday at 09:00 and 17:00 (UTC)"),
        ({"cron": "*/5 * * * *"}, "every 5 minutes (UTC)"),
        ({"cron": "*/5 9-17 * * 1-5"}, "every 5 minutes of hours 9-17, every weekday"),
        ({"cron": "* * * * *"}, "every minute (UTC)"),
        ({"cron": "*/7 * * * *"}, "every 7th minute (UTC)"),
        ({"cron": "*/40 * * * *"}, "at minutes 0 and 40 of every hour (UTC)"),
        ({"cron": "@hourly"}, "at minute 0 of every hour (UTC)"),
        ({"cron": "0 */2 * * *"}, "at minute 0 of every 2 hours (UTC)"),
        ({"cron": "*/10 * * * * *"}, "every 10 seconds (UTC)"),
        ({"cron": "30 0 12 * * *"}, "every day at 12:00:30 (UTC)"),
        ({"cron": "0 0 1 */3 *"}, "on day 1 of January, April, July and October at 00:00"),
        ({"cron": "0 0 L * *"}, "on the last day of every month at 00:00 (UTC)"),
        ({"cron": "0 0 15W * *"}, "on the weekday nearest day 15 of every month at 00:00"),
        ({"cron": "0 0 * * 5L"}, "on the last Friday of every month at 00:00 (UTC)"),
        ({"cron": "0 0 * * 1#1,1#3"}, "on the first Monday and the third Monday of every month"),
        ({"cron": "0 0 13 * 5"}, "on day 13 of every month or on Friday at 00:00 (UTC)"),
        ({"cron": "0 0 */22 * *"}, "on every 22nd day, from day 1 of every month at 00:00"),
        ({"cron": "0 0 * 2 *"}, "every day in February at 00:00 (UTC)"),
        ({"at": NOW}, "once at 2026-11-23T10:00:00+00:00"),
        ({"every": "90s"}, "every 1m30s, in step with 2026-11-23T10:00:00+00:00"),
        ({"delay": "5m"}, "5m after the end of the last run"),
        ({"manual": True}, "only when it is triggered by hand"),
    ],
)
def test_a_schedule_is_explained_in_a_sentence(raw: dict[str, object], sentence: str) -> None:
    """Common shapes read like a sentence, the others field by field."""
    assert explain(spec_of(raw), NOW_MS).sentence.startswith(sentence)


def test_the_next_occurrences_are_shown_in_both_clocks() -> None:
    """Each one as an instant, and as the local time with its offset."""
    found = explain(cron("30 2 * * *", "Europe/Berlin"), parse_time("2026-10-24T10:00:00Z"), 2)
    assert found.occurrences == [
        (parse_time("2026-10-25T00:30:00Z"), "2026-10-25T02:30:00+02:00"),
        (parse_time("2026-10-26T01:30:00Z"), "2026-10-26T02:30:00+01:00"),
    ]
    assert len(explain(spec_of({"every": "1s", "max_runs": 2}), NOW_MS).occurrences) == 2
    assert len(explain(spec_of({"delay": "1s"}), NOW_MS).occurrences) == 1
    tenth = explain(spec_of({"every": "100ms"}), NOW_MS, 1).occurrences[0][1]
    assert tenth == "2026-11-23T10:00:00.100+00:00"


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ({"cron": "0 3 * * *", "timezone": "Europe/Berlin"}, []),
        ({"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, ["dst_gap", "dst_fold"]),
        ({"cron": "30 2 * * *"}, []),
        ({"cron": "30 2 1 6 *", "timezone": "Europe/Berlin"}, []),
        ({"cron": "*/30 2 * * *", "timezone": "Europe/Berlin"}, []),
        ({"cron": "* 2 * * *", "dst": {"gap": "skip"}}, ["dst_no_effect"]),
        ({"cron": "0 0 31 * *"}, ["short_month"]),
        ({"cron": "0 0 29 2 *"}, ["short_month"]),
        ({"cron": "0 0 31 1 *"}, []),
        ({"cron": "0 0 13 * 5"}, ["both_day_fields"]),
        ({"cron": "*/7 * * * *"}, ["uneven_step"]),
        ({"cron": "0 0 */2 * *"}, ["uneven_step"]),
        ({"cron": "*/20 */6 * */3 *"}, []),
        ({"cron": "* * * * *"}, []),
        ({"cron": "*/30 * * * * *"}, ["frequent"]),
        ({"every": "10s"}, ["frequent"]),
        ({"at": "2020-01-01T00:00:00Z"}, ["no_occurrence_left"]),
        ({"manual": True}, []),
    ],
)
def test_what_may_surprise_is_warned_of(raw: dict[str, object], codes: list[str]) -> None:
    """Valid schedules that may not do what was meant get a warning with a stable code."""
    assert [code for code, _ in explain(spec_of(raw), NOW_MS).warnings] == codes


def test_a_warning_says_what_will_happen_and_when() -> None:
    """The sentence names the wall-clock time, the day, the zone and the rule in force."""
    gap, fold = explain(cron("30 2 * * *", "Europe/Berlin"), NOW_MS).warnings
    assert gap[1] == (
        "2027-03-28 02:30 does not exist in Europe/Berlin, the clocks go forward: "
        "it runs once at 2027-03-28T03:00:00+02:00."
    )
    assert fold[1] == (
        "2027-10-31 02:30 exists twice in Europe/Berlin, the clocks go back: "
        "it runs the first time only."
    )


def test_of_a_time_that_has_passed_it_is_said_who_decides_about_it() -> None:
    """A one-time job in the past is late, not over: it may run at once."""
    (late,) = explain(spec_of({"at": "2020-01-01T00:00:00Z"}), NOW_MS).warnings
    assert late[1] == 'Its time has passed; "catch_up" decides whether it runs all the same.'
    (over,) = explain(
        spec_of({"delay": "1s", "not_after": "2020-01-01T00:00:00Z"}), NOW_MS
    ).warnings
    assert over[1] == "No occurrence lies ahead: the last one has passed."
