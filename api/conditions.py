"""Conditional requests (RFC 9110, section 13): a job's revision is its entity tag."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from api.problems import Problem

_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*')
_REVISION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class Headers(Protocol):
    def get(self, key: str) -> str | None: ...


class Conditions(NamedTuple):
    """What must be true of a job for the request to be carried out.

    `revisions` are those one of which it must have (None: any, also none at all);
    `exists` tells whether it must exist or must not.
    """

    revisions: frozenset[int] | None
    exists: bool | None

    def met_by(self, revision: int | None) -> bool:
        """Return whether a job at `revision` (None: there is none) fulfils them."""
        if self.exists is not None and self.exists != (revision is not None):
            return False
        return self.revisions is None or revision in self.revisions

    @property
    def any(self) -> bool:
        """Return whether there are conditions at all."""
        return self.revisions is not None or self.exists is not None


NO_CONDITIONS = Conditions(None, None)


def format_tag(revision: int) -> str:
    return f'"{revision}"'


def read_conditions(headers: Headers) -> Conditions:
    """Return the conditions of a request that changes a job.

    Raises:
        Problem: `invalid_header`.
    """
    if_match, if_none_match = headers.get("If-Match"), headers.get("If-None-Match")
    if if_match is None and if_none_match is None:
        return NO_CONDITIONS
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            detail = "If-None-Match can only be * here, without If-Match: the job must not exist."
            raise Problem("invalid_header", detail)
        return Conditions(None, False)
    assert if_match is not None
    if if_match.strip() == "*":
        return Conditions(None, True)
    return Conditions(frozenset(_revisions(if_match)), True)


def _revisions(header: str) -> list[int]:
    """Return the revisions among the tags; a weak or a foreign tag matches nothing."""
    revisions = []
    for part in header.split(","):
        matched = _TAG.fullmatch(part)
        if matched is None:
            detail = f"If-Match is * or a list of quoted tags such as {format_tag(7)}."
            raise Problem("invalid_header", detail)
        weak, tag = matched.groups()
        if not weak and _REVISION.fullmatch(tag):
            revisions.append(int(tag))
    return revisions
