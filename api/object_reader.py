"""Reading one JSON object of a request, member by member, with all of its faults.

The good case costs a look-up and a call a member; everything that makes a refusal helpful
(which member, what was meant) is worked out only when there is something to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import TypeVar

from api.faults import FAULTS_MAX, FaultList, Rejected, child, shortened, shown

T = TypeVar("T")
D = TypeVar("D")


class ObjectReader:
    """Reads the members of an object; what is wrong with them goes to `faults`."""

    __slots__ = ("_faults", "_pointer", "_raw")

    def __init__(self, raw: Mapping[str, object], pointer: str, faults: FaultList) -> None:
        self._raw = raw
        self._pointer = pointer
        self._faults = faults

    def known(self, names: Collection[str]) -> None:
        """Record a fault for each member whose name is not among `names`."""
        for name in [name for name in self._raw if name not in names][:FAULTS_MAX]:
            close = get_close_matches(shortened(name), names, n=1)
            hint = f'did you mean "{close[0]}"?' if close else _choices(names)
            self.fault(name, "unknown_field", f"{shown(name)} is not a field here; {hint}")

    def read(self, name: str, parser: Callable[[object], T], default: D) -> T | D:
        """Return the parsed member, or `default` if it is absent or wrong."""
        value = self._raw.get(name, self)
        if value is self:
            return default
        try:
            return parser(value)
        except Rejected as rejected:
            self.fault(name, rejected.code, rejected.detail)
            return default

    def require(self, name: str, parser: Callable[[object], T]) -> T | None:
        """Return the parsed member; its absence is a fault, too."""
        if name not in self._raw:
            self.fault(name, "required", f'"{name}" is required.')
        return self.read(name, parser, None)

    def inner(self, name: str) -> ObjectReader | None:
        """Return a reader of the member `name` if it is there and an object."""
        value = self._raw.get(name, self)
        if value is self:
            return None
        if not isinstance(value, dict):
            self.fault(name, "wrong_type", f'"{name}" is an object, not {shown(value)}.')
            return None
        return ObjectReader(value, child(self._pointer, name), self._faults)

    def fault(self, name: str, code: str, detail: str) -> None:
        self._faults.add(child(self._pointer, name), code, detail)


def _choices(names: Collection[str]) -> str:
    if not names:
        return "no fields are expected."
    return "use " + ", ".join(f'"{name}"' for name in sorted(names)) + "."


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Rejected("wrong_type", f"It is a whole number, not {shown(value)}.")
        if not low <= value <= high:
            raise Rejected("out_of_range", f"It is a whole number from {low} to {high}.")
        return value

    return parse


def text(characters_max: int) -> Callable[[object], str]:
    """Return a parser of texts of at most `characters_max` characters."""

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise Rejected("wrong_type", f"It is a text, not {shown(value)}.")
        if len(value) > characters_max:
            detail = f"It has {len(value)} characters, {characters_max} are allowed."
            raise Rejected("too_long", detail)
        return value

    return parse


def one_of(choices: Mapping[str, T]) -> Callable[[object], T]:
    """Return a parser of texts that stand for a fixed set of values."""

    def parse(value: object) -> T:
        if not isinstance(value, str):
            raise Rejected("wrong_type", f"It is a text, not {shown(value)}.")
        if value not in choices:
            close = get_close_matches(shortened(value), choices, n=1)
            hint = f'did you mean "{close[0]}"?' if close else _choices(choices)
            raise Rejected("unknown_value", f"{shown(value)} is not known here; {hint}")
        return choices[value]

    return parse


def truth(value: object) -> bool:
    """Parse true or false."""
    if not isinstance(value, bool):
        raise Rejected("wrong_type", f"It is true or false, not {shown(value)}.")
    return value
