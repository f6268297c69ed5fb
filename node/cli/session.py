"""What every command that talks to a cluster shares: its options, a client and a printer."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from node.cli import addresses
from node.cli.client import Client, segment
from node.cli.exits import USAGE, CommandFailed
from node.cli.output import FORMS, Printer
from storage.clock import Environment, SystemEnvironment

NAMESPACE_VARIABLE = "CRONCLAVE_NAMESPACE"
NAMESPACE_DEFAULT = "default"
_JOB_ID = re.compile("[0-9a-f]{32}")

Function = Callable[..., Any]


class Session:
    """One command's way to the cluster and to the terminal."""

    def __init__(self, addr: str, form: str, namespace: str | None) -> None:
        self.environment: Environment = SystemEnvironment()
        self.client = Client(addresses.parse_addresses(addr), self.environment)
        self.printer = Printer(form, self.environment)
        # None means that no namespace was named: lists then show all of them.
        self.namespace = namespace

    def split(self, reference: str) -> tuple[str, str]:
        """Return namespace and name of "name" or "namespace/name"."""
        namespace, slash, name = reference.rpartition("/")
        if not name or "/" in namespace or (slash and not namespace):
            raise CommandFailed(f'"{reference}" is no job; write NAME or NAMESPACE/NAME.', USAGE)
        return namespace or self.namespace or NAMESPACE_DEFAULT, name

    def job_path(self, reference: str) -> str:
        """Return the API's path of a job given by name, namespace/name or id."""
        if _JOB_ID.fullmatch(reference):
            return f"/v1/jobs/{reference}"
        namespace, name = self.split(reference)
        return f"/v1/jobs/{segment(namespace)}/{segment(name)}"


def addressed(function: Function) -> Function:
    """Give a command the options of one that talks to a cluster, and a `Session` first."""

    @click.option(
        "--addr",
        envvar=addresses.VARIABLE,
        default=addresses.DEFAULT,
        show_default=True,
        metavar="URL[,URL...]",
        help=f"Nodes to ask, in this order.  [{addresses.VARIABLE}]",
    )
    @click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(FORMS),
        default="table",
        show_default=True,
        help="How to print.",
    )
    @click.option(
        "-n",
        "--namespace",
        envvar=NAMESPACE_VARIABLE,
        metavar="NAME",
        help=f"Namespace of the jobs.  [{NAMESPACE_VARIABLE}]",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, addr: str, form: str, namespace: str | None, **kwargs: Any) -> Any:
        return function(Session(addr, form, namespace), *args, **kwargs)

    return wrapped


def counted(function: Function) -> Function:
    """Give a command that prints a list the options for how much of it."""

    @click.option(
        "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many."
    )
    @click.option("--all", "everything", is_flag=True, help="All of them.")
    @functools.wraps(function)
    def wrapped(*args: Any, limit: int, everything: bool, **kwargs: Any) -> Any:
        return function(*args, count=None if everything else limit, **kwargs)

    return wrapped


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Return the mapping that repeated options of the form key=value give."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise CommandFailed(f'{option} takes key=value, not "{text}".', USAGE)
        found[key] = value
    return found


def duration_ms(text: str, option: str) -> int:
    """Return the milliseconds of a duration that is used here and not by the cluster."""
    from api.durations import parse_duration  # noqa: PLC0415
    from api.faults import Rejected  # noqa: PLC0415

    try:
        return parse_duration(text)
    except Rejected as rejected:
        raise CommandFailed(f"{option}: {rejected.detail}", USAGE) from None
