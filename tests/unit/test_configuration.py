"""Who belongs to the cluster: the record, its bytes, and which one in a log counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.configuration import (
    MEMBERSHIP_PREFIX,
    SEATS_MAX,
    Configuration,
    ConfigurationError,
    Seat,
    check_change,
    decode_configuration,
    encode_configuration,
    first_configuration,
    split_address,
)
from consensus.errors import ChangeRefused
from consensus.raft.admission import rejection
from consensus.raft.configurations import Configurations
from consensus.raft.types import Introduction
from storage.invariant import InvariantViolated

THREE = first_configuration({name: f"{name}:7901" for name in ("n3", "n1", "n2")})
FOURTH = Seat("n4", "n4:7901", "learner", b"4" * 16)


def test_a_new_cluster_consists_of_voters_in_the_order_of_their_names() -> None:
    """Every member that reads the same file has the same bytes."""
    assert [seat.name for seat in THREE.seats] == ["n1", "n2", "n3"]
    assert THREE.voters == THREE.names == {"n1", "n2", "n3"}
    again = first_configuration({name: f"{name}:7901" for name in ("n1", "n2", "n3")})
    assert encode_configuration(again) == encode_configuration(THREE)


def test_seats_come_change_and_go() -> None:
    """A configuration is never changed; each step gives another one."""
    four = THREE.having(FOURTH)
    assert four.names == {"n1", "n2", "n3", "n4"}
    assert four.voters == THREE.voters
    moved = four.having(Seat("n4", "elsewhere:1", "nonvoting", b"4" * 16))
    assert moved.seat("n4") == Seat("n4", "elsewhere:1", "nonvoting", b"4" * 16)
    assert four.seat("n4") == FOURTH
    assert moved.without("n4") == THREE
    assert THREE.seat("n4") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([1, [["n1", "a:1", "king", b""]]]),
        msgspec.msgpack.encode([1, [["n1", "a:1", "voter", b"", "more"]]]),
        msgspec.msgpack.encode([1, [["n2", "a:1", "voter"], ["n1", "a:1", "voter"]]]),
        msgspec.msgpack.encode([1, [["n1", "a:1", "voter"], ["n1", "b:1", "voter"]]]),
        msgspec.msgpack.encode([2, []]),
    ],
)
def test_what_is_no_configuration_is_refused(content: bytes) -> None:
    """Nothing is guessed: neither roles, nor fields, nor order, nor version."""
    with pytest.raises(ConfigurationError):
        decode_configuration(content)


def test_what_was_encoded_is_decoded() -> None:
    """The bytes in the log are the whole configuration."""
    four = THREE.having(FOURTH)
    assert decode_configuration(encode_configuration(four)) == four


names = st.sampled_from([f"n{number}" for number in range(1, 8)])
configurations = st.dictionaries(
    names, st.sampled_from(["voter", "learner", "nonvoting"]), min_size=1
).map(
    lambda roles: Configuration(
        1,
        tuple(Seat(name, "", role) for name, role in sorted(roles.items())),  # type: ignore[arg-type]
    )
)


@given(configurations, configurations)
def test_majorities_of_configurations_that_may_follow_each_other_meet(
    before: Configuration, after: Configuration
) -> None:
    """Whatever the old voters may still decide, the new ones know of it."""
    if not before.voters:
        return
    try:
        check_change(before, after)
    except ChangeRefused:
        return
    quorums = [len(one.voters) // 2 + 1 for one in (before, after)]
    assert sum(quorums) > len(before.voters | after.voters)


def test_one_voter_comes_or_goes_at_a_time() -> None:
    """Two would make majorities that do not know of each other."""
    five = THREE.having(Seat("n4", "", "voter")).having(Seat("n5", "", "voter"))
    for before, after in ((THREE, five), (five, THREE)):
        with pytest.raises(ChangeRefused, match="n4, n5"):
            check_change(before, after)
    exchanged = THREE.without("n3").having(Seat("n4", "", "voter"))
    with pytest.raises(ChangeRefused):
        check_change(THREE, exchanged)
    # The same name in another seat is another member.
    with pytest.raises(ChangeRefused):
        check_change(THREE, THREE.having(Seat("n3", "", "voter", b"new")))
    check_change(THREE, THREE.having(FOURTH).having(Seat("n5", "", "nonvoting")))


def test_somebody_has_to_decide() -> None:
    """The last vote cannot be given up, and seats are bounded."""
    one = first_configuration({"n1": ""})
    with pytest.raises(ChangeRefused, match="at least one voter"):
        check_change(one, one.without("n1"))
    crowd = one
    for number in range(SEATS_MAX):
        crowd = crowd.having(Seat(f"x{number}", "", "nonvoting"))
    with pytest.raises(ChangeRefused, match="at most"):
        check_change(one, crowd)


# --- In the log -----------------------------------------------------------------------------


def entry(configuration: Configuration) -> bytes:
    return MEMBERSHIP_PREFIX + encode_configuration(configuration)


FOUR = THREE.having(FOURTH)


def test_the_newest_configuration_in_the_log_is_in_force() -> None:
    """From the moment it is appended; once it is cut off, the one before is again."""
    found = Configurations((0, THREE), [(b"\x01", 1, 0), (entry(FOUR), 2, 1)])
    assert found.current == (2, FOUR)
    assert found.at(1) == (0, THREE)
    found.append(entry(THREE), 5)
    assert (found.current, found.at(4)) == ((5, THREE), (2, FOUR))
    found.truncate_from(3)
    assert found.current == (2, FOUR)
    found.truncate_from(2)
    assert found.current == (0, THREE)


def test_what_a_trim_takes_away_becomes_the_base() -> None:
    """It is handed to the journal once, when it is another one than before."""
    found = Configurations((0, THREE), [(entry(FOUR), 2, 1), (entry(THREE), 5, 1)])
    assert found.trim_below(2) is None
    assert found.trim_below(4) == (2, encode_configuration(FOUR))
    assert found.trim_below(5) is None
    assert (found.base, found.current) == ((2, FOUR), (5, THREE))
    assert found.trim_below(6) == (5, encode_configuration(THREE))
    assert found.current == found.base == (5, THREE)


def test_a_newcomers_base_is_newer_than_what_it_replays() -> None:
    """Configurations of the past do not count again on the way up to it."""
    found = Configurations((60, FOUR), [])
    found.append(entry(THREE), 20)
    found.append(entry(FOUR), 60)
    assert found.current == found.at(0) == (60, FOUR)
    found.append(entry(THREE), 61)
    assert found.current == (61, THREE)
    assert found.at(60) == (60, FOUR)


def test_a_configuration_that_is_not_understood_stops_the_member() -> None:
    """To go on without it would be to count other votes than the rest does."""
    found = Configurations((0, THREE), [])
    with pytest.raises(InvariantViolated, match="Entry 9 is not understood"):
        found.append(MEMBERSHIP_PREFIX + b"\x90", 9)


# --- At the door ----------------------------------------------------------------------------


def test_who_has_a_seat_is_let_in_and_who_lost_it_is_told() -> None:
    """E3, E10: a removal counts when it is committed, and for the seat that it was about."""
    removed = (9, THREE)
    assert rejection("n1", Introduction(b"", 9, ""), THREE, removed) is None
    # In force only, or committed only: the change may yet go either way.
    assert rejection("n4", Introduction(FOURTH.seat_id, 3, ""), FOUR, (2, THREE)) is None
    assert rejection("n4", Introduction(FOURTH.seat_id, 3, ""), THREE, (3, FOUR)) is None
    told = rejection("n4", Introduction(FOURTH.seat_id, 3, ""), THREE, removed)
    assert told is not None
    assert told.removed
    assert "as of entry 9" in told.reason


def test_nobody_is_told_of_a_removal_by_who_knows_less() -> None:
    """A member that lags behind has not heard of the newcomer yet, and asks it to come again."""
    told = rejection("n4", Introduction(FOURTH.seat_id, 9, ""), THREE, (9, THREE))
    assert told is not None
    assert not told.removed


def test_a_name_that_was_given_away_again_is_not_the_one_it_was() -> None:
    """The old disk under the old name hears that its seat is gone."""
    again = FOUR.having(Seat("n4", "n4:7901", "learner", b"5" * 16))
    told = rejection("n4", Introduction(FOURTH.seat_id, 3, ""), again, (12, again))
    assert told is not None
    assert told.removed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7901", ("10.0.0.1", 7901)),
        ("[::1]:80", ("::1", 80)),
        ("host:0", None),
        ("host:65536", None),
        ("::1:80", None),
        (":80", None),
        ("host", None),
        ("", None),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int] | None) -> None:
    """What is none is refused where it is read, not where it is dialed."""
    assert split_address(text) == expected
