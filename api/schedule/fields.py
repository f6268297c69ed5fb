"""What a cron expression consists of: kinds of field, fields, and the six together.

The two facts on which daylight saving and the days depend are decided here, in the words
of Debian's cron: a field is starred if it begins with `*`, and it is restricted unless it
is `*`. An expression is about fixed times unless the minute or the hour is starred, and
if both day fields are restricted a day need match only one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTH_DAYS_MAX = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One of the six kinds of field, with the values it can take."""

    label: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.high - self.low + 1


SECOND = FieldKind("second", 0, 59)
MINUTE = FieldKind("minute", 0, 59)
HOUR = FieldKind("hour", 0, 23)
DAY = FieldKind("day of month", 1, 31)
MONTH = FieldKind("month", 1, 12, MONTHS)
WEEKDAY = FieldKind("day of week", 0, 6, WEEKDAYS)
KINDS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its canonical text, the values it names, and its special items.

    `values` is sorted; `specials` are items without fixed values (`L`, `15W`, `5#2`, `L5`).
    """

    text: str
    values: tuple[int, ...]
    specials: tuple[str, ...] = ()

    @property
    def starred(self) -> bool:
        """Whether the field begins with `*`, which is how Debian's cron tells them apart."""
        return self.text.startswith("*")

    @property
    def restricted(self) -> bool:
        return self.text != "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A whole expression. `seconds` tells whether it was written with six fields."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field
    seconds: bool

    @property
    def text(self) -> str:
        fields = [self.minute, self.hour, self.day, self.month, self.weekday]
        return " ".join(field.text for field in ([self.second] if self.seconds else []) + fields)

    @property
    def fixed(self) -> bool:
        """Whether it names times of day, which daylight saving must neither lose nor double.

        The others (with `*` first in the minute or the hour) follow real time: the rule of
        Debian's cron(8).
        """
        return not (self.minute.starred or self.hour.starred)
