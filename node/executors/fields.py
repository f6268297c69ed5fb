"""Checking the fields of an action: shared by the executors that come with Cronclave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from api.faults import FaultList, Rejected, child, shown

Check = Callable[[object], object]


def check_fields(
    action: Mapping[str, Any],
    pointer: str,
    required: Mapping[str, Check],
    optional: Mapping[str, Check],
) -> FaultList:
    """Judge every field of an action, also missing and unknown ones."""
    faults = FaultList()
    checks = {**required, **optional}
    for name, value in action.items():
        if name == "type":
            continue
        if name not in checks:
            near = get_close_matches(name, checks, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else f" Known: {', '.join(checks)}."
            faults.add(child(pointer, name), "unknown_field", f"No such field.{hint}")
        else:
            faults.parse(pointer, name, checks[name], value)
    for name in required:
        if name not in action:
            faults.add(child(pointer, name), "missing_field", f'"{name}" is required.')
    return faults


def text(characters_max: int) -> Check:
    """Check for a text without NUL, not longer than `characters_max`."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise Rejected("wrong_type", f"A text is expected, not {shown(value)}.")
        if len(value) > characters_max:
            raise Rejected("too_long", f"At most {characters_max} characters are allowed.")
        if "\x00" in value:
            raise Rejected("invalid_text", "A NUL character is not allowed.")
        return value

    return check


def texts_by_name(entries_max: int, characters_max: int) -> Check:
    """Check for an object whose values are all texts."""
    check_text = text(characters_max)

    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise Rejected("wrong_type", f"An object is expected, not {shown(value)}.")
        if len(value) > entries_max:
            raise Rejected("too_many", f"At most {entries_max} entries are allowed.")
        for name, item in value.items():
            check_text(name)
            check_text(item)
        return value

    return check
