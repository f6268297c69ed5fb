"""Where the nodes are: CRONCLAVE_ADDR or --addr, one or several in the order they are tried."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from node.cli.exits import USAGE, CommandFailed

DEFAULT = "http://127.0.0.1:8901"
VARIABLE = "CRONCLAVE_ADDR"
# Every address may cost a whole timeout before the next one is tried.
ADDRESSES_MAX = 16


class Address(NamedTuple):
    """One node's API."""

    host: str
    port: int
    encrypted: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.encrypted else 'http'}://{host}:{self.port}"


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Return the addresses of "http://a:8901,b:8901"; http is assumed.

    Raises:
        CommandFailed: one is no address, or there is none or too many.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(parts) > ADDRESSES_MAX:
        raise CommandFailed(
            f"Give 1 to {ADDRESSES_MAX} addresses with --addr or {VARIABLE}, such as {DEFAULT}.",
            USAGE,
        )
    return tuple(_address(part) for part in parts)


def _address(text: str) -> Address:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise CommandFailed(f'"{text}" is no address of a node; write {DEFAULT}.', USAGE)
    encrypted = parts.scheme == "https"
    if port is None:
        raise CommandFailed(f'"{text}" names no port; write for example {DEFAULT}.', USAGE)
    return Address(parts.hostname, port, encrypted)
