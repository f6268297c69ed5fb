"""The cron dialect: five fields, or six with seconds first, in one strict grammar.

croniter is lenient where leniency changes the meaning (`5-5` is every minute, `*/61` is
minute 0, `R` differs on every member), so a text is read here first, all of its faults
are named, and only what is unambiguous goes on. What comes out is a canonical text in
which aliases, names, `H`, `?`, Sunday as 7 and ranges that wrap around are resolved; it
means the same to every member for ever, and reading it again gives itself.
"""

from __future__ import annotations

import re
from functools import lru_cache

from api.faults import Rejected, shown
from api.schedule.fields import (
    KINDS,
    MONTH_DAYS_MAX,
    WEEKDAY,
    Field,
    FieldKind,
    Fields,
)
from api.schedule.items import bad_item, parse_item

# Longer than any honest expression (a list of all sixty minutes has 169 characters), and
# short enough that reading it never delays anybody else.
EXPRESSION_CHARACTERS_MAX = 256
# As many distinct expressions as a busy cluster has, at about two kilobytes each.
FIELDS_CACHED_MAX = 8_192

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS_WITHOUT_SECONDS, FIELDS_WITH_SECONDS, FIELDS_WITH_YEAR = 5, 6, 7


def parse_expression(text: str, seed: bytes) -> tuple[Fields | None, list[Rejected]]:
    """Return the fields of a cron expression, or None and everything that is wrong with it.

    `seed` decides the values that stand for `H`; the same seed gives the same values.
    """
    try:
        items = _split(text)
    except Rejected as rejected:
        return None, [rejected]
    faults: list[Rejected] = []
    seconds = len(items) == FIELDS_WITH_SECONDS
    if not seconds:
        items = ["0", *items]
    parsed = [
        _parse_field(kind, item, seed, faults) for kind, item in zip(KINDS, items, strict=True)
    ]
    if faults:
        return None, faults
    second, minute, hour, day, month, weekday = parsed
    fields = Fields(
        second=second,
        minute=minute,
        hour=hour,
        day=day,
        month=month,
        weekday=weekday,
        seconds=seconds,
    )
    faults.extend(_contradictions(fields))
    if len(fields.text) > EXPRESSION_CHARACTERS_MAX:
        faults.append(_too_long(fields.text))
    return (None if faults else fields), faults


@lru_cache(maxsize=FIELDS_CACHED_MAX)
def read_canonical(text: str) -> Fields:
    """Return the fields of a canonical text.

    Raises:
        Rejected: it is not one that `parse_expression` accepts.
    """
    fields, faults = parse_expression(text, b"")
    if fields is None:
        raise faults[0]
    return fields


def _split(text: str) -> list[str]:
    if len(text) > EXPRESSION_CHARACTERS_MAX:
        raise _too_long(text)
    if not all(" " <= character <= "~" or character == "\t" for character in text):
        raise Rejected("cron_syntax", f"{shown(text)} has characters that cron does not know.")
    items = text.upper().split()
    if items and items[0].startswith("@"):
        items = _expand_alias(text.strip().lower()).split()
    if items and re.match(r"(?:CRON_)?TZ=", items[0]):
        raise Rejected(
            "cron_timezone_inside", 'A time zone inside the expression is refused; use "timezone".'
        )
    if len(items) == FIELDS_WITH_YEAR:
        raise Rejected(
            "cron_year_field", 'A year field is refused; use "not_before" and "not_after".'
        )
    if len(items) not in (FIELDS_WITHOUT_SECONDS, FIELDS_WITH_SECONDS):
        raise Rejected(
            "cron_field_count",
            f"The expression has {len(items)} fields; write five (minute, hour, day of month, "
            "month, day of week) or six with the seconds first.",
        )
    return items


def _expand_alias(text: str) -> str:
    if text in ALIASES:
        return ALIASES[text]
    if text.startswith("@every"):
        raise Rejected("cron_alias", '"@every" is refused; use {"every": "5m"} instead of "cron".')
    if text.startswith("@reboot"):
        raise Rejected("cron_alias", '"@reboot" is refused: a cluster has no moment of booting.')
    raise Rejected("cron_alias", f"{shown(text)} is unknown; use one of {', '.join(ALIASES)}.")


def _parse_field(kind: FieldKind, text: str, seed: bytes, faults: list[Rejected]) -> Field:
    """Return the field, or record its faults and return an empty one."""
    texts, values, specials = [], set[int](), []
    for item in text.split(","):
        try:
            canonical, item_values = parse_item(kind, item, seed)
        except Rejected as rejected:
            faults.append(rejected)
            continue
        texts.append(canonical)
        values.update(item_values)
        if not item_values:
            specials.append(canonical)
    if "?" in text and text != "?":
        faults.append(bad_item(kind, text, '"?" cannot be combined with anything'))
    if any(special.endswith("W") for special in specials) and len(texts) > 1:
        faults.append(bad_item(kind, text, '"W" must stand alone'))
    if kind is WEEKDAY and specials and values:
        faults.append(bad_item(kind, text, '"#" and "L" cannot be listed with plain days'))
    joined = "*" if "*" in texts else ",".join(texts)
    return Field(joined, tuple(sorted(values)), tuple(specials))


def _contradictions(fields: Fields) -> list[Rejected]:
    day, weekday = fields.day, fields.weekday
    nearest = any(special.endswith("W") for special in day.specials)
    if (weekday.specials and day.restricted) or (nearest and weekday.restricted):
        return [
            Rejected(
                "cron_mixed_days",
                '"W", "#" and the last weekday of a month cannot be combined with the other day '
                'field; write "*" there, or make two jobs.',
            )
        ]
    longest = max(MONTH_DAYS_MAX[month - 1] for month in fields.month.values)
    if not weekday.restricted and not day.specials and day.values[0] > longest:
        return [
            Rejected(
                "cron_never_fires",
                f"Day {day.values[0]} does not occur in month {fields.month.text}, so it never "
                "fires; use a day that exists or L for the last one.",
            )
        ]
    return []


def _too_long(text: str) -> Rejected:
    return Rejected(
        "cron_too_long",
        f"The expression has {len(text)} characters, or will have once its ranges are resolved; "
        f"{EXPRESSION_CHARACTERS_MAX} are allowed.",
    )
