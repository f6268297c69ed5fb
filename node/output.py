"""Keep the beginning and the end of an output whose length nobody knows.

A job may print one line or a hundred gigabytes; what is kept of it is decided before it
starts. The beginning says what was run, the end says how it went, so a quarter of the
room goes to the first bytes and the rest to the last ones, and a line between them says
how much is missing. The capture never holds more than its limit and takes memory only as
output arrives. It works on bytes: what a command prints need not be text. The runner and
the HTTP executor share it, and it imports nothing.
"""

from __future__ import annotations

# A quarter for the head: it holds the banner and the arguments of most programs, while
# the reason of a failure (a stack trace, the log before it) is long and stands at the end.
HEAD_SHARE = 4
CUT_MARK = b"\n[... %d bytes cut ...]\n"
# With fewer bytes than this the mark would be most of what is kept; the end is kept alone.
MARKED_BYTES_MIN = 128


class OutputCapture:
    """Collect a stream of bytes into at most `bytes_max` bytes.

    Up to `bytes_max` bytes are kept whole. Of a longer stream `render` returns the first
    quarter, the line `[... N bytes cut ...]` and the last bytes, together never more than
    `bytes_max`, and N is exact. Below `MARKED_BYTES_MIN` only the last bytes are kept.
    """

    __slots__ = ("_bytes_max", "_head", "_head_size", "_tail", "_tail_size", "_write_at", "total")

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 0:
            raise ValueError(f"bytes_max must not be negative, and is {bytes_max}")
        self._bytes_max = bytes_max
        self._head_size = bytes_max // HEAD_SHARE if bytes_max >= MARKED_BYTES_MIN else 0
        self._tail_size = bytes_max - self._head_size
        self._head = bytearray()
        # A ring once it is full: `_write_at` is then its oldest byte.
        self._tail = bytearray()
        self._write_at = 0
        self.total = 0

    def append(self, chunk: bytes) -> None:
        """Take the next bytes of the stream; the cost does not depend on what came before."""
        self.total += len(chunk)
        room = self._head_size - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if chunk and self._tail_size:
            self._append_tail(chunk)

    def _append_tail(self, chunk: bytes) -> None:
        if len(chunk) >= self._tail_size:
            self._tail[:] = chunk[-self._tail_size :]
            self._write_at = 0
            return
        room = self._tail_size - len(self._tail)
        self._tail += chunk[:room]
        rest = chunk[room:]
        until_end = self._tail_size - self._write_at
        first, second = rest[:until_end], rest[until_end:]
        self._tail[self._write_at : self._write_at + len(first)] = first
        self._tail[: len(second)] = second
        self._write_at = (self._write_at + len(rest)) % self._tail_size

    def render(self) -> bytes:
        """Return what is kept, with the cut marked; at most `bytes_max` bytes."""
        tail = bytes(self._tail[self._write_at :] + self._tail[: self._write_at])
        missing = self.total - len(self._head) - len(tail)
        if missing == 0 or not self._head_size:
            return bytes(self._head) + tail
        # The mark takes its room from the oldest bytes of the tail, which are then missing
        # too. The longest mark there can be is assumed, so that the sum always fits.
        room = len(CUT_MARK % self.total)
        return bytes(self._head) + CUT_MARK % (missing + room) + tail[room:]
