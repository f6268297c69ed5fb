"""Text for a terminal: safe to print, and told in the words of a person who looks at it now."""

from __future__ import annotations

from datetime import UTC, datetime

UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
# Beyond this a date says more than a number of days.
RELATIVE_DAYS_MAX = 30
NONE = "-"


def printable(text: str) -> str:
    """Return text without the control characters that could take over a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else "�" if character not in "\n\t" else " "
        for character in text
    )


def time_ms(text: str) -> int | None:
    """Return the milliseconds of a time as the API writes it, or None."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(moment.timestamp() * 1_000) if moment.tzinfo else None


def format_ms(instant_ms: int) -> str:
    """Return an instant as the API writes it, with milliseconds only if there are any."""
    precision = "milliseconds" if instant_ms % 1_000 else "seconds"
    moment = datetime.fromtimestamp(instant_ms / 1_000, tz=UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def relative(text: str | None, now_ms: int) -> str:
    """Return "in 5m" or "3s ago" for a time near now, and its date for one far away."""
    instant_ms = time_ms(text) if text else None
    if text is None or instant_ms is None:
        return text or NONE
    distance_s = abs(instant_ms - now_ms) // 1_000
    if distance_s >= RELATIVE_DAYS_MAX * 86_400:
        return text[:10]
    if distance_s == 0:
        return "now"
    return f"in {span(distance_s)}" if instant_ms > now_ms else f"{span(distance_s)} ago"


def span(seconds: int) -> str:
    """Return a span in its two largest units: "1h5m", "2d", "40s"."""
    parts: list[str] = []
    for size_s, name in UNITS:
        number, rest = divmod(seconds, size_s)
        if number or parts:
            parts += [f"{number}{name}"] if number else [""]
            seconds = rest
        if len(parts) == 2:  # noqa: PLR2004
            break
    return "".join(parts) or "0s"


def duration_between(start: str | None, end: str | None) -> str:
    """Return how long something took: "250ms", "3.2s", "5m10s"; "-" when it is not over."""
    start_ms, end_ms = time_ms(start or ""), time_ms(end or "")
    if start_ms is None or end_ms is None:
        return NONE
    taken_ms = max(0, end_ms - start_ms)
    if taken_ms < 1_000:  # noqa: PLR2004
        return f"{taken_ms}ms"
    if taken_ms < 60_000:  # noqa: PLR2004
        return f"{taken_ms / 1_000:.1f}s"
    return span(taken_ms // 1_000)
