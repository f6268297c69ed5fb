"""Applying who is to belong to the cluster, and who does.

What operators ask for is written down as the wanted seats, by commands like all others:
applied once, from whichever member, also across a change of the leader. The leader makes
the configuration follow, one change at a time (node/services/steward.py). A configuration
that is committed is applied here as well, so that the state says at every index who belongs
to the cluster, and a member that was removed ends its lease and its runs return.

The first configuration that is applied is what is wanted from then on.
"""

from __future__ import annotations

from consensus.configuration import (
    SEAT_ID_BYTES,
    SEATS_MAX,
    Configuration,
    decode_configuration,
    encode_configuration,
)
from consensus.state.commands import (
    ChangeMember,
    IssueToken,
    JoinMember,
    Refused,
    RemoveMember,
    SeatDone,
    WantedRole,
)
from consensus.state.context import Context, replace
from storage import keys, models
from storage.limits import TOKENS_MAX
from storage.models import AppliedConfiguration, JoinToken, WantedSeat
from storage.store import View


def configuration_of(view: View) -> Configuration | None:
    """Return the configuration that was applied last, None before the first."""
    raw = view.get(keys.CONFIGURATION)
    if raw is None:
        return None
    return decode_configuration(models.decode_applied_configuration(raw).content)


def wanted_seats(view: View) -> dict[str, WantedSeat]:
    """Return the seats that the cluster is to have, by name."""
    rows = view.scan(keys.SEAT, keys.after(keys.SEAT), SEATS_MAX + 1)
    return {key[1:].decode(): models.decode_wanted_seat(raw) for key, raw in rows}


def join_tokens(view: View) -> dict[bytes, JoinToken]:
    """Return the tokens that were issued and not yet cleaned away, by hash."""
    rows = view.scan(keys.TOKEN, keys.after(keys.TOKEN), TOKENS_MAX + 1)
    return {key[1:]: models.decode_join_token(raw) for key, raw in rows}


def seat_id_of(token_hash: bytes) -> bytes:
    """Return the identity of the seat that a token opens."""
    return token_hash[:SEAT_ID_BYTES]


# --- What operators ask for -----------------------------------------------------------------


def issue_token(context: Context, command: IssueToken) -> SeatDone | Refused:
    """Remember a permission to join."""
    wanted = wanted_seats(context.store)
    tokens = join_tokens(context.store)
    if not wanted:
        return _too_early()
    if command.name in wanted:
        return Refused("name_taken", f"{command.name!r} is a member; remove it first.")
    if command.replaces is not None and command.replaces not in wanted:
        return Refused("not_found", f"There is no member {command.replaces!r} to replace.")
    if len(tokens) >= TOKENS_MAX:
        return Refused("members_invalid", f"{TOKENS_MAX} tokens wait to be used or to expire.")
    if command.token_hash in tokens:
        return Refused("token_invalid", "This token was issued before.")
    token = JoinToken(
        name=command.name,
        role=command.role,
        expires_ms=command.expires_ms,
        bundle=command.bundle,
        replaces=command.replaces,
    )
    context.store.put(keys.TOKEN + command.token_hash, models.encode(token))
    return SeatDone(command.name)


def join_member(context: Context, command: JoinMember) -> SeatDone | Refused:
    """Use a token up and want its member. The seat gets its identity from the token."""
    key = keys.TOKEN + command.token_hash
    raw = context.store.get(key)
    token = None if raw is None else models.decode_join_token(raw)
    if token is None or token.used or token.expires_ms < context.clock_ms:
        return Refused("token_invalid", "The token is unknown, used already, or expired.")
    if token.name != command.name:
        return Refused("token_invalid", f"The token is for {token.name!r}.")
    wanted = wanted_seats(context.store)
    if command.name in wanted:
        return Refused("name_taken", f"{command.name!r} is a member; remove it first.")
    if len(wanted) >= SEATS_MAX:
        return Refused("members_invalid", f"A cluster has at most {SEATS_MAX} members.")
    seat = WantedSeat(
        address=command.address,
        role=token.role,
        seat_id=seat_id_of(command.token_hash),
        replaces=token.replaces if token.replaces in wanted else None,
        since_ms=context.clock_ms,
    )
    _want(context, command.name, seat)
    context.store.put(key, models.encode(replace(token, used=True)))
    return SeatDone(command.name)


def change_member(context: Context, command: ChangeMember) -> SeatDone | Refused:
    """Want another role or address for a member."""
    wanted = wanted_seats(context.store)
    before = wanted.get(command.name)
    if before is None:
        return _unknown(command.name)
    after = before
    if command.role is not None:
        after = replace(after, role=command.role)
    if command.address is not None:
        after = replace(after, address=command.address)
    if not _voters({**wanted, command.name: after}):
        return _nobody_votes()
    _want(context, command.name, after)
    return SeatDone(command.name)


def remove_member(context: Context, command: RemoveMember) -> SeatDone | Refused:
    """Want a member no more."""
    wanted = wanted_seats(context.store)
    if command.name not in wanted:
        return _unknown(command.name)
    del wanted[command.name]
    if not _voters(wanted):
        return _nobody_votes()
    context.store.delete(keys.SEAT + command.name.encode())
    context.effects.members_changed = True
    return SeatDone(command.name)


def _want(context: Context, name: str, seat: WantedSeat) -> None:
    context.store.put(keys.SEAT + name.encode(), models.encode(seat))
    context.effects.members_changed = True


def _voters(wanted: dict[str, WantedSeat]) -> list[str]:
    return [name for name, seat in wanted.items() if seat.role == "voter"]


def _unknown(name: str) -> Refused:
    return Refused("not_found", f"There is no member {name!r}.")


def _nobody_votes() -> Refused:
    return Refused("members_invalid", "The cluster needs at least one member that votes.")


def _too_early() -> Refused:
    return Refused("members_invalid", "The cluster has just begun; try again in a moment.")


def clean_tokens(context: Context) -> int:
    """Forget the tokens whose time is over."""
    over = [h for h, token in join_tokens(context.store).items() if _over(context, token)]
    for token_hash in over:
        context.store.delete(keys.TOKEN + token_hash)
    return len(over)


def _over(context: Context, token: JoinToken) -> bool:
    return token.expires_ms < context.clock_ms


# --- What the log says ----------------------------------------------------------------------


def configured(context: Context, after: Configuration) -> None:
    """Take over a configuration that is committed."""
    before = configuration_of(context.store)
    record = AppliedConfiguration(context.index, encode_configuration(after))
    context.store.put(keys.CONFIGURATION, models.encode(record))
    context.effects.members_changed = True
    if before is None:
        for seat in after.seats:
            role: WantedRole = "nonvoting" if seat.role == "nonvoting" else "voter"
            _want(context, seat.name, WantedSeat(address=seat.address, role=role))
        return
    present = {(seat.name, seat.seat_id) for seat in after.seats}
    for seat in before.seats:
        if (seat.name, seat.seat_id) not in present:
            _leave(context, seat.name)
    _finish_replacements(context, after)


def _finish_replacements(context: Context, after: Configuration) -> None:
    """Let members go whose place has been taken."""
    for name, seat in wanted_seats(context.store).items():
        found = after.seat(name)
        if seat.replaces is None or found is None or found.role != seat.role:
            continue
        remove_member(context, RemoveMember(seat.replaces))
        _want(context, name, replace(seat, replaces=None))


def _leave(context: Context, name: str) -> None:
    """Let the lease of a removed member run out, at once if it holds nothing.

    Until then it may still be at work on what it has claimed, so its runs stay its own.
    """
    key = keys.MEMBER + name.encode()
    raw = context.store.get(key)
    if raw is None:
        return
    member = models.decode_member(raw)
    lease_key = keys.INCARNATION + member.incarnation
    live = keys.LIVE + member.incarnation
    lease = context.store.get(lease_key)
    if lease is None or not context.store.scan(live, keys.after(live), 1):
        context.store.delete(key)
        context.store.delete(lease_key)
        return
    leaving = replace(models.decode_incarnation(lease), leaving=True)
    context.store.put(lease_key, models.encode(leaving))
    context.store.put(key, models.encode(replace(member, leaving=True, accepting=False)))
