"""This member's part in comparing the state of all members.

With every heartbeat it tells the others its marks. When it hears theirs it looks whether a
majority contradicts it, and if so ends in `fatal` with `StateDiverged`: the process then
stops and the data directory is put into quarantine. A contradiction that nobody can
decide is logged, shown by `/readyz` and counted in the metrics, and stops nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec

from consensus.state_check import HEARD_S_MAX, MARKS_TOLD, StateCheck, StateDiverged
from storage.models import NOT_DECODED

logger = logging.getLogger(__name__)

_Index = Annotated[int, msgspec.Meta(ge=1)]
_Hash = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Marks = Annotated[list[tuple[_Index, _Hash]], msgspec.Meta(max_length=MARKS_TOLD)]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Marks).decode


class StateGuard:
    """Tells, hears and judges; `tell` sends a payload to all other members."""

    def __init__(
        self,
        check: StateCheck,
        tell: Callable[[bytes], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._check = check
        self._tell = tell
        self._on_fatal = on_fatal
        self._alarmed: Mapping[str, int] = {}

    def beat(self) -> None:
        """Tell the others where this member stands, and look at what they have told."""
        marks = self._check.to_tell()
        if marks:
            self._tell(_encode(marks))
        self._judge()

    def receive(self, member: str, payload: bytes) -> None:
        """Take the marks of another member."""
        try:
            marks = _decode(payload)
        except NOT_DECODED as error:
            logger.warning("The marks of member %s cannot be read: %s", member, error)
            return
        self._check.heard(member, marks)

    def _judge(self) -> None:
        verdict = self._check.outvoted()
        if verdict is not None:
            self._on_fatal(StateDiverged(verdict))
            return
        differing = self._check.differing()
        for member in differing.keys() - self._alarmed.keys():
            logger.error(
                "The state of member %s differs from this member's at log index %d. Whoever a"
                " majority contradicts stops by itself; if nobody does, see to it.",
                member,
                differing[member],
            )
        self._alarmed = differing

    @property
    def differing_count(self) -> int:
        """Return how many members have another state than this one."""
        return len(self._check.differing())

    def missing(self) -> Iterable[str]:
        """Yield why this member's state may be wrong, as a sentence, if it may."""
        undecided = self._check.undecided()
        if undecided:
            yield (
                f"The state of this member and that of {', '.join(sorted(undecided))} differ, and"
                " no majority tells which is right."
            )

    def report(self) -> dict[str, Any]:
        """Return the marks of all members, for whoever looks into a difference."""
        others = {
            member: {index: digest.hex() for index, digest in sorted(marks.items())}
            for member, marks in self._check.evidence().items()
        }
        own = {index: digest.hex() for index, digest in self._check.to_tell()}
        return {"own_marks": own, "marks_of_others": others, "heard_within_s": HEARD_S_MAX}
