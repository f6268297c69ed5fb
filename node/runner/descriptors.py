"""How many files may be open at once: the runner's limit, and the one that commands get.

A service usually starts with a soft limit of 1024 open files and a far higher hard one, so
that programs with select(), which fails beyond 1024, are safe. The runner waits with epoll
and needs more; its commands get back what it was given itself.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

from node.runner.limits import (
    ATTEMPTS_IN_FLIGHT_MAX,
    DESCRIPTORS_MAX,
    DESCRIPTORS_PER_ATTEMPT,
    DESCRIPTORS_RESERVED,
)


class DescriptorLimits(NamedTuple):
    """The soft and hard limit that commands get, and how many attempts there is room for."""

    inherited: tuple[int, int]
    attempts_max: int


def raise_descriptor_limit(wanted: int = DESCRIPTORS_MAX) -> DescriptorLimits:
    """Let this process open as many files as it needs, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    else:
        allowed = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    attempts_max = (allowed - DESCRIPTORS_RESERVED) // DESCRIPTORS_PER_ATTEMPT
    return DescriptorLimits((soft, hard), min(attempts_max, ATTEMPTS_IN_FLIGHT_MAX))
