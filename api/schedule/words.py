"""The words for a cron expression.

A few times of day are listed, after the days: "every weekday (Monday to Friday) at 09:00".
More of them are described field by field, before the days: "every 5 minutes of hours 9-17,
on the last day of every month".
"""

from __future__ import annotations

from api.schedule.fields import HOUR, MINUTE, SECOND, Field, FieldKind, Fields

# More times of day than this are described by field and not listed.
TIMES_LISTED_MAX = 4
# A field of more values than this is shown as it was written.
VALUES_LISTED_MAX = 6
MONTH_NAMES = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WEEKDAY_NAMES = (
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")
WORKDAYS = (1, 2, 3, 4, 5)


def describe(fields: Fields) -> str:
    """Return what an expression means, without its time zone."""
    listed = _listed_times(fields)
    if listed:
        return f"{_days(fields)} at {listed}"
    times = _times(fields)
    everyday = not (fields.day.restricted or fields.weekday.restricted or fields.month.restricted)
    return times if everyday else f"{times}, {_days(fields)}"


def _days(fields: Fields) -> str:
    months, monthly = "", " of every month"
    if fields.month.restricted:
        names = _listed([MONTH_NAMES[month - 1] for month in fields.month.values])
        months, monthly = f" in {names}", f" of {names}"
    if fields.day.restricted and fields.weekday.restricted:
        return f"on {_days_of_month(fields.day)}{monthly} or on {_weekdays(fields.weekday)}{months}"
    if fields.day.restricted:
        return f"on {_days_of_month(fields.day)}{monthly}"
    if fields.weekday.specials:
        return f"on {_weekdays(fields.weekday)}{monthly}"
    if fields.weekday.restricted:
        return f"every {_weekdays(fields.weekday)}{months}"
    return f"every day{months}"


def _listed_times(fields: Fields) -> str:
    """Return for example "03:00 and 15:00", "" if there are too many."""
    hours, minutes, seconds = fields.hour.values, fields.minute.values, fields.second.values
    if len(hours) * len(minutes) * len(seconds) > TIMES_LISTED_MAX:
        return ""
    return _listed(
        [
            f"{hour:02}:{minute:02}" + (f":{second:02}" if any(seconds) else "")
            for hour in hours
            for minute in minutes
            for second in seconds
        ]
    )


def _times(fields: Fields) -> str:
    """Return the fields one by one, from the finest that is not just its first value."""
    parts = []
    if fields.second.text != "0":
        parts.append(_steps(SECOND, fields.second))
    if not parts or fields.minute.restricted:
        parts.append(_steps(MINUTE, fields.minute))
    if fields.hour.restricted or not parts[-1].startswith("every "):
        parts.append(_steps(HOUR, fields.hour))
    words = " of ".join(parts)
    return words if words.startswith("every ") else f"at {words}"


def _steps(kind: FieldKind, field: Field) -> str:
    """Return for example "every minute", "every 5 minutes", "minutes 5 and 35"."""
    if not field.restricted:
        return f"every {kind.label}"
    few = len(field.values) <= VALUES_LISTED_MAX
    if field.text.startswith("*/") and field.text[2:].isdecimal():
        step = int(field.text[2:])
        if kind.size % step == 0:
            return f"every {step} {kind.label}s"
        if not few:
            return f"every {_ordinal(step)} {kind.label}"
    plural = "s" if len(field.values) > 1 else ""
    items = [str(value) for value in field.values] if few else field.text.split(",")
    return f"{kind.label}{plural} {_listed(items)}"


def _days_of_month(field: Field) -> str:
    words = []
    for item in field.text.split(","):
        if item == "L":
            words.append("the last day")
        elif item.endswith("W"):
            words.append(f"the weekday nearest day {item[:-1]}")
        elif item.startswith("*/"):
            words.append(f"every {_ordinal(int(item[2:]))} day, from day 1")
        else:
            words.append(f"day {item}")
    return _listed(words)


def _weekdays(field: Field) -> str:
    if field.specials:
        return _listed([_special_weekday(special) for special in field.specials])
    if field.values == WORKDAYS:
        return "weekday (Monday to Friday)"
    return _listed([WEEKDAY_NAMES[day] for day in field.values])


def _special_weekday(special: str) -> str:
    if special.startswith("L"):
        return f"the last {WEEKDAY_NAMES[int(special[1:])]}"
    day, _, number = special.partition("#")
    return f"the {ORDINALS[int(number) - 1]} {WEEKDAY_NAMES[int(day)]}"


def _ordinal(number: int) -> str:
    teens = 10 <= number % 100 <= 20  # noqa: PLR2004
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _listed(words: list[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
