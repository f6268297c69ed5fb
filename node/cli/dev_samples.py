"""The jobs that a development cluster begins with: one of each kind, and something to see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from node.cli.client import Client, segment
from node.cli.problems import Refused
from node.cli.text import format_ms
from storage.clock import Environment

NAMESPACE = "samples"
SOON_MS = 10_000
EXISTS = 412


def sample_jobs(environment: Environment, url: str) -> Iterator[dict[str, Any]]:
    """Yield the jobs as documents; `url` is a node that the HTTP job can ask."""
    yield {
        "name": "clock",
        "description": "A command every five seconds.",
        "schedule": {"every": "5s"},
        "action": {"type": "command", "argv": ["/bin/sh", "-c", "echo It is $(date +%T)."]},
    }
    yield {
        "name": "each-minute",
        "description": "A cron expression in a time zone.",
        "schedule": {"cron": "* * * * *", "timezone": "Europe/Berlin"},
        "action": {"type": "command", "argv": ["/bin/echo", "The minute is full."]},
    }
    yield {
        "name": "health-check",
        "description": "An HTTP request to one of the nodes.",
        "schedule": {"every": "15s"},
        "action": {"type": "http", "url": f"{url}/healthz", "expect_status": ["2xx"]},
        "timeout": "5s",
    }
    yield {
        "name": "once-soon",
        "description": "A job for one time, ten seconds after its creation.",
        "schedule": {"at": format_ms(environment.wall_ms() + SOON_MS)},
        "action": {"type": "command", "argv": ["/bin/echo", "This was the only time."]},
    }
    yield {
        "name": "unlucky",
        "description": "It fails, and is tried three times.",
        "schedule": {"every": "1m"},
        "action": {"type": "command", "argv": ["/bin/sh", "-c", "echo Not today. >&2; exit 3"]},
        "retry": {"max_attempts": 3, "backoff": "2s"},
    }
    yield {
        "name": "by-hand",
        "description": "It starts when you say so: cronclave job run samples/by-hand --wait",
        "schedule": {"manual": True},
        "action": {"type": "command", "argv": ["/bin/sh", "-c", "sleep 2; echo Done."]},
    }


def create_samples(client: Client, environment: Environment, url: str) -> int:
    """Create the samples that are not there yet; return how many were created.

    Raises:
        CommandFailed: one was refused.
    """
    created = 0
    for job in sample_jobs(environment, url):
        path = f"/v1/jobs/{NAMESPACE}/{segment(job['name'])}"
        try:
            client.put(path, {**job, "namespace": NAMESPACE}, create_only=True)
        except Refused as refused:
            if refused.status != EXISTS:
                raise
        else:
            created += 1
    return created
