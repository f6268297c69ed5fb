"""The few system calls that the standard library does not offer."""

from __future__ import annotations

import ctypes
import os
import signal

# From <linux/prctl.h> and <linux/memfd.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MFD_NOEXEC_SEAL = 0x0008

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent's thread ends.

    It holds across exec, except of a set-user-id program, and is not passed on to children.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def open_memory_file(content: bytes) -> int:
    """Return a read-only descriptor of a nameless file in memory that holds `content`.

    A command's input is given this way: unlike a pipe, nothing has to be fed to it later.
    """
    try:
        writable = os.memfd_create("stdin", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:
        # Kernels before 6.3 do not know the flag; newer ones can be set to require it.
        writable = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with memoryview(content) as rest:
            written = 0
            while written < len(rest):
                written += os.write(writable, rest[written:])
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
