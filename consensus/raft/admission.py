"""Who may open a connection to this member, and who is told that it was removed.

A certificate proves a name; whether the name has a seat is in the configuration. Being told
to have been removed is final, so it takes proof: a configuration that is committed, newer
than the newest committed one that the other member knows of, and without its seat. Whoever
is being removed by an entry that may yet be cut off still has its seat.

A member that knows a newer committed configuration than this one, which does not know it, is
let in as a guest: it may be the leader, and the only one who can tell of the changes that
this member has missed. A guest is listened to and answered, and counts for nothing: the name
that it bears may stand for somebody else in the configuration here, whose promises it knows
nothing about.
"""

from __future__ import annotations

import logging

from consensus.configuration import Configuration, Seat
from consensus.errors import ChangeRefused
from consensus.raft.configurations import Placed
from consensus.raft.log import RaftLog
from consensus.raft.members import Membership
from consensus.raft.types import Introduction, MemberRemoved, Rejection
from storage.invariant import invariant

logger = logging.getLogger(__name__)


def rejection(
    member: str, introduction: Introduction, in_force: Configuration, committed: Placed
) -> Rejection | None:
    """Return why a member is not let in, or None to let it in."""
    index, configuration = committed
    for known in (in_force, configuration):
        seat = known.seat(member)
        if seat is not None and seat.seat_id == introduction.seat_id:
            return None
    if index > introduction.configuration:
        return Rejection(removal_text(member, index), removed=True)
    return Rejection(f"{member!r} is not a member as far as is known here.", removed=False)


def removal_text(member: str, index: int) -> str:
    """Return what a member without a seat is told."""
    return (
        f"{member} is no member of this cluster as of entry {index} of its log: it was removed, "
        "or its place was given to another disk. Nothing is to be done for the cluster; to take "
        "this machine in again, join with a new token and an empty data directory."
    )


def own_seat(
    member: str, log: RaftLog, applied_index: int, bootstrap: Configuration | None
) -> Seat:
    """Return this member's seat at its start, and say where the file and the log differ.

    Raises:
        MemberRemoved: it has none.
    """
    in_force = log.configurations.current[1]
    index, committed = log.configurations.at(applied_index)
    seat = in_force.seat(member) or committed.seat(member)
    if seat is None:
        raise MemberRemoved(removal_text(member, index))
    if bootstrap is not None and _addresses(in_force) != _addresses(bootstrap):
        logger.warning(
            "The configuration file names the members %s, but this cluster has changed since: "
            "its log says %s. The log counts.",
            _addresses(bootstrap),
            _addresses(in_force),
        )
    return seat


def _addresses(configuration: Configuration) -> dict[str, str]:
    return {seat.name: seat.address for seat in configuration.seats}


def check_seat(core: Membership, seat: Seat) -> None:
    """Make sure that this member still belongs to the cluster.

    Raises:
        MemberRemoved: its removal is committed.
    """
    index, committed = core.committed_configuration
    found = committed.seat(core.member)
    if found is None or found.seat_id != seat.seat_id:
        raise MemberRemoved(removal_text(core.member, index))


def promote(core: Membership) -> None:
    """As the leader, give a learner that has caught up its vote."""
    name = core.caught_up_learner()
    if name is None:
        return
    before = core.configuration[1]
    seat = before.seat(name)
    invariant(seat is not None, "A learner has a seat.", name=name)
    assert seat is not None
    after = before.having(Seat(seat.name, seat.address, "voter", seat.seat_id))
    try:
        core.change(after)
    except ChangeRefused as refused:
        logger.debug("Member %s has caught up, and waits: %s", name, refused)
    else:
        logger.info("Member %s has caught up and votes from now on.", name)
