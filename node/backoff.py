"""When a failed run is tried again."""

from __future__ import annotations

from hashlib import blake2b

from storage.models import Retry

DOUBLINGS_MAX = 40  # far beyond any bound of the backoff, and no overflow in sight


def retry_delay_ms(retry: Retry, run: bytes, tries: int) -> int:
    """Return the delay after that many tries of a run, in milliseconds.

    It doubles with each try up to its bound. With jitter it lies between half of that and
    all of it, by a hash of run and try: whoever computes it gets the same.
    """
    delay_ms = min(retry.backoff_ms << min(tries - 1, DOUBLINGS_MAX), retry.backoff_ms_max)
    if not retry.jitter:
        return delay_ms
    digest = blake2b(run + tries.to_bytes(4, "big"), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / (1 << 64)
    return int(delay_ms * (0.5 + share / 2))
