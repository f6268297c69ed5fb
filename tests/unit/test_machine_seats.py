"""Who is to belong to the cluster, and what becomes of those who do not any more."""

from __future__ import annotations

from hashlib import sha256

import pytest

from consensus.configuration import Configuration, Seat, first_configuration
from consensus.state.apply_seats import configuration_of, join_tokens, wanted_seats
from consensus.state.commands import (
    ChangeMember,
    Claim,
    Claimed,
    ClaimRun,
    Clean,
    Expire,
    Heartbeat,
    IssueToken,
    JoinMember,
    Refused,
    Remaining,
    RemoveMember,
    Renewed,
    SeatDone,
)
from consensus.state.context import Effects
from storage import keys, models
from storage.limits import TOKENS_MAX
from tests.support.builders import LEASE_MS, Lab

THREE = first_configuration({name: f"{name}:7901" for name in ("n1", "n2", "n3")})
HASH = sha256(b"a proof").digest()
FOUR = THREE.having(Seat("n4", "n4:7901", "voter", HASH[:16]))


@pytest.fixture
def lab() -> Lab:
    """A cluster of three whose log has said so."""
    found = Lab()
    configure(found, THREE)
    return found


def configure(lab: Lab, configuration: Configuration) -> None:
    lab.effects = Effects()
    index = lab.machine.applied_index + 1
    lab.machine.apply(index, 1, b"", lab.effects, configuration)
    lab.machine.finish()


def token(lab: Lab, name: str = "n4", **changes: object) -> IssueToken:
    wish: dict[str, object] = {
        "token_hash": HASH, "name": name, "role": "voter", "expires_ms": lab.now_ms + 60_000,
        "bundle": b"sealed",
    }  # fmt: skip
    return IssueToken(**(wish | changes))  # type: ignore[arg-type]


def beat(lab: Lab, member: str, life: int = 1, *, supersedes: bool = False) -> Heartbeat:
    return Heartbeat(
        member, incarnation(member, life), LEASE_MS, 8, "", "0", "t", {}, True, 0, supersedes
    )


def incarnation(member: str, life: int = 1) -> bytes:
    return bytes([life]) + member.encode().ljust(15, b".")


def is_member(lab: Lab, name: str) -> bool:
    return lab.store.get(keys.MEMBER + name.encode()) is not None


def test_what_the_log_says_first_is_what_is_wanted(lab: Lab) -> None:
    """From then on operators say what is wanted, and the log follows."""
    assert configuration_of(lab.store) == THREE
    wanted = wanted_seats(lab.store)
    assert {name: (s.role, s.address, s.seat_id) for name, s in wanted.items()} == {
        name: ("voter", f"{name}:7901", b"") for name in THREE.names
    }
    assert lab.effects.members_changed


def test_a_configuration_is_part_of_the_hash() -> None:
    """Members that applied different ones must not look the same."""
    one, two = Lab(), Lab()
    configure(one, THREE)
    configure(two, FOUR)
    assert one.machine.state_hash != two.machine.state_hash


def test_a_token_admits_once(lab: Lab) -> None:
    """Its seat is known by the token, so a second admission is another seat."""
    lab.expect(SeatDone, token(lab))
    lab.expect(SeatDone, JoinMember(HASH, "n4", "n4:7901"))
    seat = wanted_seats(lab.store)["n4"]
    assert (seat.role, seat.address, seat.seat_id) == ("voter", "n4:7901", HASH[:16])
    assert lab.expect(Refused, JoinMember(HASH, "n4", "n4:7901")).code == "token_invalid"


def test_a_token_is_for_one_name_and_one_time(lab: Lab) -> None:
    """Neither another name nor a later moment is what was permitted."""
    lab.expect(SeatDone, token(lab))
    assert lab.expect(Refused, JoinMember(HASH, "n5", "n5:1")).code == "token_invalid"
    assert lab.expect(Refused, JoinMember(HASH[::-1], "n4", "n4:1")).code == "token_invalid"
    lab.now_ms += 60_001
    assert lab.expect(Refused, JoinMember(HASH, "n4", "n4:1")).code == "token_invalid"
    lab.apply(Clean(0, 0))
    assert join_tokens(lab.store) == {}


def test_a_token_for_a_member_or_in_the_place_of_none_is_refused(lab: Lab) -> None:
    """Both are mistakes that are better noticed now."""
    assert lab.expect(Refused, token(lab, "n3")).code == "name_taken"
    assert lab.expect(Refused, token(lab, replaces="n9")).code == "not_found"
    lab.expect(SeatDone, token(lab))
    assert lab.expect(Refused, token(lab)).code == "token_invalid"


def test_tokens_are_bounded(lab: Lab) -> None:
    """Each holds a bundle; who makes too many has forgotten them."""
    for number in range(TOKENS_MAX):
        lab.expect(SeatDone, token(lab, token_hash=sha256(b"%d" % number).digest()))
    assert lab.expect(Refused, token(lab)).code == "members_invalid"


def test_a_cluster_that_has_just_begun_knows_no_members() -> None:
    """Nothing can be changed before the log has said who there is."""
    lab = Lab()
    assert lab.expect(Refused, token(lab)).code == "members_invalid"
    assert lab.expect(Refused, RemoveMember("n1")).code == "not_found"


def test_roles_and_addresses_change_and_one_voter_stays(lab: Lab) -> None:
    """A wish that would leave nobody to decide is refused at once."""
    lab.expect(SeatDone, ChangeMember("n1", "nonvoting", "elsewhere:1"))
    assert wanted_seats(lab.store)["n1"].role == "nonvoting"
    assert wanted_seats(lab.store)["n1"].address == "elsewhere:1"
    lab.expect(SeatDone, RemoveMember("n2"))
    assert lab.expect(Refused, RemoveMember("n2")).code == "not_found"
    assert lab.expect(Refused, RemoveMember("n3")).code == "members_invalid"
    assert lab.expect(Refused, ChangeMember("n3", "nonvoting")).code == "members_invalid"
    assert lab.expect(Refused, ChangeMember("n9", "voter")).code == "not_found"


def test_who_is_replaced_goes_when_the_successor_votes(lab: Lab) -> None:
    """Not before: until then it may be needed."""
    lab.expect(SeatDone, token(lab, replaces="n2"))
    lab.expect(SeatDone, JoinMember(HASH, "n4", "n4:7901"))
    configure(lab, THREE.having(Seat("n4", "n4:7901", "learner", HASH[:16])))
    assert "n2" in wanted_seats(lab.store)
    configure(lab, FOUR)
    assert set(wanted_seats(lab.store)) == {"n1", "n3", "n4"}
    assert wanted_seats(lab.store)["n4"].replaces is None


# --- What becomes of a removed member's work ------------------------------------------------


def test_a_removed_member_that_holds_nothing_is_gone_at_once(lab: Lab) -> None:
    """There is nothing to wait for, and it renews no lease any more."""
    lab.expect(Renewed, beat(lab, "n3"))
    configure(lab, THREE.without("n3"))
    assert not is_member(lab, "n3")
    assert lab.store.get(keys.INCARNATION + incarnation("n3")) is None
    assert lab.expect(Refused, beat(lab, "n3", 2)).code == "member_removed"


def holding(lab: Lab) -> bytes:
    """Let n3 hold a run, and be removed; return the run."""
    lab.expect(Renewed, beat(lab, "n3"))
    run = lab.trigger(lab.create("held"))
    claimed = lab.expect(Claimed, Claim(incarnation("n3"), (ClaimRun(run, lab.now_ms),)))
    assert claimed.refusals == (None,)
    configure(lab, THREE.without("n3"))
    return run


def test_the_runs_of_a_removed_member_return_when_its_lease_is_over(lab: Lab) -> None:
    """It may be at work until then, and starts nothing more."""
    holding(lab)
    raw = lab.store.get(keys.MEMBER + b"n3")
    assert raw is not None
    member = models.decode_member(raw)
    assert (member.leaving, member.accepting) == (True, False)
    refused = lab.expect(Refused, Claim(incarnation("n3"), ()))
    assert refused.code == "member_removed"
    assert lab.expect(Refused, Expire(incarnation("n3"))).code == "lease_valid"
    lab.now_ms += LEASE_MS + 1
    assert lab.expect(Remaining, Expire(incarnation("n3"))).handled == 1
    assert not is_member(lab, "n3")


def test_another_machine_under_an_old_name_does_not_answer_for_the_runs_of_before(
    lab: Lab,
) -> None:
    """That its predecessor is dead is proven on its own disk, and not on that of the other."""
    holding(lab)
    configure(lab, THREE.without("n3").having(Seat("n3", "n3:7901", "learner", HASH[:16])))
    lab.expect(Renewed, beat(lab, "n3", 2, supersedes=True))
    assert lab.expect(Refused, Expire(incarnation("n3"))).code == "lease_valid"
    lab.now_ms += LEASE_MS // 2
    lab.expect(Renewed, beat(lab, "n3", 2))
    lab.now_ms += LEASE_MS // 2 + 1
    assert lab.expect(Remaining, Expire(incarnation("n3"))).handled == 1
    assert is_member(lab, "n3")
