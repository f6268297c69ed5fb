"""What is wrong with a request, in the form the API answers with.

A request is answered with all of its faults at once, so a parser does not stop at the
first: it collects. One value is judged by a function that returns the parsed value or
raises `Rejected`; whoever knows where the value stands in the document turns that into
a `Fault` with a pointer. Both are bounded, for the input may be hostile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

# Enough to repair a document in one go; more would only lengthen the answer to junk.
FAULTS_MAX = 50
# Long enough to recognise one's own input, short enough for a line of a terminal.
SHOWN_CHARACTERS_MAX = 48

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document.

    `pointer` is a JSON Pointer (RFC 6901) to the value, `code` a stable snake_case word
    for programs, `detail` a sentence for people: what is wrong and what to write instead.
    """

    pointer: str
    code: str
    detail: str


class Rejected(ValueError):
    """A value that cannot be accepted, before it is known where it stands."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class FaultList:
    """Collects the faults of one document, `FAULTS_MAX` of them at most."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, pointer: str, code: str, detail: str) -> None:
        """Record a fault; what exceeds the bound is dropped, the document is bad anyway."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(pointer, code, detail))

    def parse(
        self, pointer: str, key: str, parser: Callable[[object], T], value: object
    ) -> T | None:
        """Return `parser(value)`, or None after recording why it was rejected.

        The value is the member `key` of what is at `pointer`.
        """
        try:
            return parser(value)
        except Rejected as rejected:
            self.add(child(pointer, key), rejected.code, rejected.detail)
            return None

    def __bool__(self) -> bool:
        return bool(self.faults)


def child(pointer: str, key: str | int) -> str:
    """Return the JSON Pointer of the member `key` under `pointer` (RFC 6901, section 3)."""
    text = shortened(str(key)).replace("~", "~0").replace("/", "~1")
    return f"{pointer}/{text}"


def shortened(text: str) -> str:
    """Return `text`, cut with an ellipsis to `SHOWN_CHARACTERS_MAX` characters."""
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return text[: SHOWN_CHARACTERS_MAX - 1] + "…"


def shown(value: object) -> str:
    """Return a short form of a rejected value for the sentence that rejects it."""
    if isinstance(value, str):
        return f'"{shortened(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (int, float)):
        return "a number"
    return "an array" if isinstance(value, (list, tuple)) else "an object"
