"""Pages of a table, by keys.

A page begins behind the last key of the one before, so it costs the same wherever it is
and does not shift when rows come and go. A filter may reject any number of rows, so the
rows that are looked at are bounded too: such a page may be short, or even empty, and
still have a successor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from api import parameters
from api.faults import Fault
from api.problems import invalid_parameters
from storage.limits import PAGE_ITEMS_DEFAULT, PAGE_ROWS_SCANNED_MAX
from storage.store import View

T = TypeVar("T")

# Enough to make the cost of a scan's beginning disappear.
ROWS_SCANNED_MIN = 64


class Page(NamedTuple, Generic[T]):
    """Some items in order, and the key behind which the next page begins."""

    items: list[T]
    next_key: bytes | None


def read_page(
    view: View,
    start: bytes,
    stop: bytes,
    query: Mapping[str, Any],
    pick: Callable[[bytes, bytes], T | None],
    *,
    reverse: bool = False,
) -> Page[T]:
    """Return the page of [start, stop) that `query` asks for; `pick` makes items of rows.

    Raises:
        Problem: the cursor is not one of this list.
    """
    limit: int = query.get("limit", PAGE_ITEMS_DEFAULT)
    cursor: bytes | None = query.get("cursor")
    if cursor is not None:
        start, stop = _behind(cursor, start, stop, reverse=reverse)
    items: list[T] = []
    last_key: bytes | None = None
    rows_left = PAGE_ROWS_SCANNED_MAX if start < stop else 0
    while rows_left:
        wanted = min(rows_left, max(limit - len(items), ROWS_SCANNED_MIN))
        rows = view.scan(start, stop, wanted, reverse=reverse)
        for key, value in rows:
            start, stop = (start, key) if reverse else (key + b"\x00", stop)
            item = pick(key, value)
            if item is not None:
                items.append(item)
                if len(items) == limit:
                    return Page(items, _next_key(view, start, stop, key, reverse=reverse))
        if len(rows) < wanted:
            return Page(items, None)
        rows_left -= len(rows)
        last_key = rows[-1][0]
    return Page(items, last_key and _next_key(view, start, stop, last_key, reverse=reverse))


def _behind(cursor: bytes, start: bytes, stop: bytes, *, reverse: bool) -> tuple[bytes, bytes]:
    # A cursor from before the bounds of the time filter moved is still a position in the
    # table; one that names another table is not.
    if cursor[:1] != start[:1]:
        rejected = parameters.foreign_cursor()
        raise invalid_parameters([Fault("?cursor", rejected.code, rejected.detail)])
    if reverse:
        return start, min(stop, cursor)
    return max(start, cursor + b"\x00"), stop


def _next_key(view: View, start: bytes, stop: bytes, key: bytes, *, reverse: bool) -> bytes | None:
    return key if view.scan(start, stop, 1, reverse=reverse) else None
