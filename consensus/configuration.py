"""Who belongs to the cluster and who decides in it, as the log has it.

A change of the members is an entry of the log that carries the whole new configuration.
It is in force on a member from the moment the entry is in its log, committed or not, and
the one before is in force again when the entry is cut off (Ongaro's thesis, chapter 4).
Changes come one at a time, and two that follow on each other differ by one voter at most,
so any majority of the one has a member in common with any majority of the other; see
`check_change` and `consensus.raft.members` for what the leader refuses.

A seat is one admission of a name. A name that was removed and is added again has another
seat: its disk of before, and whoever still runs from it, are strangers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from consensus.errors import ChangeRefused

CONFIGURATION_VERSION = 1
# The first byte of a membership entry in the log, the library's number for them.
MEMBERSHIP_PREFIX = b"\x02"
# Every seat is replicated to by one leader; far above what one log can serve.
SEATS_MAX = 100
NAME_CHARS_MAX = 63
ADDRESS_CHARS_MAX = 300
SEAT_ID_BYTES = 16
PORT_MAX = 65_535
_PORT = re.compile(r"[0-9]{1,5}")

# A voter decides. A learner is on its way there and is made one when it has caught up.
# A nonvoting member replicates and executes for good, and decides nothing.
Role: TypeAlias = Literal["voter", "learner", "nonvoting"]


class ConfigurationError(Exception):
    """The bytes are no configuration of this version."""


class Seat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One admission of a member; `seat_id` is empty for those of the first configuration."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
    address: Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)]
    role: Role
    seat_id: Annotated[bytes, msgspec.Meta(max_length=SEAT_ID_BYTES)] = b""


class Configuration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All seats, in the order of their names."""

    version: int
    seats: Annotated[tuple[Seat, ...], msgspec.Meta(max_length=SEATS_MAX)]

    @property
    def names(self) -> frozenset[str]:
        """Return the names of all members."""
        return frozenset(seat.name for seat in self.seats)

    @property
    def voters(self) -> frozenset[str]:
        """Return the names of the members that decide."""
        return frozenset(seat.name for seat in self.seats if seat.role == "voter")

    def seat(self, name: str) -> Seat | None:
        """Return a member's seat."""
        return next((seat for seat in self.seats if seat.name == name), None)

    def having(self, seat: Seat) -> Configuration:
        """Return this configuration with a seat added, or in the place of its name's."""
        others = [other for other in self.seats if other.name != seat.name]
        return _of([*others, seat])

    def without(self, name: str) -> Configuration:
        """Return this configuration without a member."""
        return _of([seat for seat in self.seats if seat.name != name])


def first_configuration(addresses: Mapping[str, str]) -> Configuration:
    """Return the configuration of a new cluster: all its members vote."""
    return _of([Seat(name, address, "voter") for name, address in addresses.items()])


def _of(seats: list[Seat]) -> Configuration:
    ordered = tuple(sorted(seats, key=lambda seat: seat.name))
    return Configuration(CONFIGURATION_VERSION, ordered)


def split_address(text: str) -> tuple[str, int] | None:
    """Return host and port of "host:port" or "[::1]:port", or None if it is neither."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not colon or not host or not _PORT.fullmatch(port) or not 1 <= int(port) <= PORT_MAX:
        return None
    return host, int(port)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the bytes of a configuration."""
    return _encoder.encode(configuration)


def decode_configuration(content: bytes) -> Configuration:
    """Return the configuration in some bytes.

    Raises:
        ConfigurationError: they hold none, or one of a newer version.
    """
    try:
        configuration = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration cannot be read: {error}") from error
    if configuration.version != CONFIGURATION_VERSION:
        raise ConfigurationError(
            f"The configuration has version {configuration.version}, this program knows "
            f"{CONFIGURATION_VERSION}; upgrade this member."
        )
    names = [seat.name for seat in configuration.seats]
    if names != sorted(set(names)):
        raise ConfigurationError("The configuration's seats are not in order, each name once.")
    return configuration


def check_change(before: Configuration, after: Configuration) -> None:
    """Refuse a configuration that must not follow on another.

    Raises:
        ChangeRefused: the two differ by more than one voter, or nobody would vote.
    """
    if not after.voters:
        raise ChangeRefused("The cluster needs at least one voter.")
    if len(after.seats) > SEATS_MAX:
        raise ChangeRefused(f"A cluster has at most {SEATS_MAX} members.")
    kept = {(seat.name, seat.seat_id) for seat in before.seats if seat.role == "voter"}
    new = {(seat.name, seat.seat_id) for seat in after.seats if seat.role == "voter"}
    if len(kept ^ new) > 1:
        changed = sorted({name for name, _ in kept ^ new})
        raise ChangeRefused(
            f"One voter may come or go at a time, not {', '.join(changed)}: a majority of the "
            "old voters and one of the new have to have a member in common."
        )
