"""Linearizable reads: what a leader has to prove before it answers, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from consensus.errors import Overloaded
from consensus.raft.rules import Rules
from consensus.read_index import LEADERLESS_S_MAX
from consensus.read_rounds import WAITING_MAX, ReadRounds
from tests.simulation.raft_hand import Hand
from tests.simulation.raft_life import SETTINGS
from tests.simulation.read_scene import ReadScene

# Wide apart, so that a leader whose time is over believes in itself for a good while yet.
WIDE = replace(SETTINGS, election_max_s=4.0)

MakeScene = Callable[..., ReadScene]


@pytest.fixture
def make() -> Iterator[MakeScene]:
    scenes: list[ReadScene] = []

    def make_scene(*arguments: object, **options: object) -> ReadScene:
        scenes.append(ReadScene(*arguments, **options))  # type: ignore[arg-type]
        return scenes[-1]

    yield make_scene
    for scene in scenes:
        scene.close()


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand(terms=(1, 1))
    yield hand
    hand.close()


# --- A leader by hand: which answers count ---------------------------------------------------


def settle(hand: Hand) -> ReadRounds:
    """Elect the member and let it commit an entry of its term; return its rounds."""
    hand.elect()
    for name in hand.names[1:]:
        hand.confirm(name)
    hand.core.tick()
    assert hand.core.committed_in_term
    return ReadRounds(hand.core)


def test_only_an_answer_to_a_later_message_counts(hand: Hand) -> None:
    """What a follower says to a message from before the question proves nothing about now."""
    rounds = settle(hand)
    hand.wait(SETTINGS.heartbeat_s)
    answers: list[int | None] = []
    rounds.ask(answers.append)
    assert rounds.advance()
    for name in hand.names[1:]:
        hand.confirm(name)  # the heartbeat from before the question
    rounds.advance()
    assert answers == []
    hand.core.tick()
    hand.confirm("n3")
    rounds.advance()
    assert answers == [hand.core.commit_index]


def test_a_round_speaks_at_once_and_once(hand: Hand) -> None:
    """It waits for no heartbeat that is due later, and later ticks say nothing more."""
    rounds = settle(hand)
    hand.core.tick()
    before = len(hand.said)
    hand.core.tick()
    assert len(hand.said) == before
    rounds.ask(lambda index: None)
    rounds.advance()
    hand.core.tick()
    hand.core.tick()
    assert [said.to for said in hand.said[before:]] == ["n2", "n3"]


@dataclass
class Leading:
    """A core that leads, with a majority that answers at once."""

    term: int = 2
    commit_index: int = 10
    leads: bool = True
    committed_in_term: bool = True
    answered: bool = False

    def begin_round(self) -> int:
        return 1

    def round_answered(self, floor: int) -> bool:
        return self.answered


def test_a_round_of_an_earlier_term_is_over() -> None:
    """Somebody else may have led in between, when the question came even."""
    core = Leading()
    rounds = ReadRounds(core)
    answers: list[int | None] = []
    rounds.ask(answers.append)
    rounds.advance()
    core.term, core.answered = 4, True
    rounds.advance()
    assert answers == [None]


def test_a_new_leader_waits_until_it_has_committed_in_its_term(hand: Hand) -> None:
    """It has all that was committed, and does not know yet up to where."""
    hand.elect()
    rounds = ReadRounds(hand.core)
    answers: list[int | None] = []
    rounds.ask(answers.append)
    for _ in range(3):
        assert not rounds.advance()
        hand.wait(0.01)
    hand.confirm("n2")
    hand.core.tick()
    assert hand.core.commit_index == hand.log.last_index
    assert rounds.advance()
    hand.core.tick()
    hand.confirm("n2")
    rounds.advance()
    assert answers == [hand.log.last_index]


def test_whoever_asks_during_a_round_is_served_by_the_next(hand: Hand) -> None:
    """Its messages may have been answered before the late question came."""
    rounds = settle(hand)
    early: list[int | None] = []
    late: list[int | None] = []
    rounds.ask(early.append)
    rounds.advance()
    hand.core.tick()
    for _ in range(100):
        rounds.ask(late.append)
    hand.confirm("n2")
    assert rounds.advance()
    assert (len(early), late) == (1, [])
    hand.core.tick()
    hand.confirm("n2")
    assert not rounds.advance()
    assert len(late) == 100


def test_a_leader_that_is_deposed_refuses_all_who_wait(hand: Hand) -> None:
    """They have to ask its successor."""
    rounds = settle(hand)
    answers: list[int | None] = []
    rounds.ask(answers.append)
    rounds.advance()
    rounds.ask(answers.append)
    hand.core._is_current(hand.core.term + 1)
    assert not rounds.advance()
    assert answers == [None, None]


def test_no_more_readers_wait_than_there_is_room_for(hand: Hand) -> None:
    """While no round succeeds, what is too much is refused at once."""
    rounds = settle(hand)
    for number in range(WAITING_MAX):
        rounds.ask(lambda index: None)
        if number == WAITING_MAX // 2:
            rounds.advance()
    with pytest.raises(Overloaded):
        rounds.ask(lambda index: None)


# --- Clusters --------------------------------------------------------------------------------


def others(scene: ReadScene, *names: str) -> list[str]:
    return [name for name in scene.names if name not in names]


@pytest.mark.parametrize("members", [1, 3, 5])
def test_a_read_at_any_member_sees_what_any_member_acknowledged(
    make: MakeScene, members: int
) -> None:
    """The index that a reader waits for is never below an acknowledged write."""
    scene = make(members)
    leader = scene.leader_name()
    for _ in range(5):
        scene.write_all(leader, 3)
        acknowledged = max(scene.oracle.acknowledged.values())
        for name in scene.names:
            index = scene.index_of(name)
            assert index is not None
            assert index >= acknowledged


def test_reading_writes_nothing(make: MakeScene) -> None:
    """The log of a cluster that is only read does not grow."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 3)
    before = scene.raft(leader).last_index
    assert all(scene.index_of(name) is not None for name in scene.names * 10)
    assert scene.raft(leader).last_index == before


def test_a_thousand_readers_share_a_few_rounds(
    make: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a read costs falls with the number of readers."""
    rounds = 0
    begin = Rules.begin_round

    def counted(self: Rules) -> int:
        nonlocal rounds
        rounds += 1
        return begin(self)

    monkeypatch.setattr(Rules, "begin_round", counted)
    scene = make()
    scene.write_all(scene.leader_name(), 3)
    reads = [scene.read(name) for name in scene.names for _ in range(1_000)]
    scene.until(lambda: all(read.done() for read in reads))
    assert all(read.result() is not None for read in reads)
    assert 1 <= rounds <= 2 * len(scene.names)


def read_of_the_past(scene: ReadScene, harm: Callable[[str], object]) -> None:
    """Harm a leader so that others elect another one, and read at it while it knows nothing.

    It fails if the old leader answers with less than what the new one has acknowledged.
    """
    old = scene.leader_name()
    scene.write_all(old, 5)
    harm(old)
    scene.until(lambda: any(scene.raft(name).is_leader for name in others(scene, old)))
    new = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    acknowledged = scene.oracle.acknowledged
    command = scene.write_to(new)[0]
    scene.until(lambda: command in acknowledged)
    assert scene.raft(old).is_leader, "the old leader knows that its time is over"
    read = scene.read(old, timeout_s=20.0)
    scene.rest(0.2)
    scene.loop.call_soon(scene.life(old).raft.resume)
    scene.rest(0.2)
    scene.network.heal()
    scene.until(read.done, 30.0)
    index = read.result()
    assert index is not None
    assert index >= acknowledged[command], "it answered from the past"


def cut_off(scene: ReadScene) -> None:
    read_of_the_past(scene, scene.isolate)


def stopped(scene: ReadScene) -> None:
    read_of_the_past(scene, lambda name: scene.life(name).raft.pause())


PASTS = [pytest.param(cut_off, id="cut_off"), pytest.param(stopped, id="stopped")]
SEEDS = range(1, 6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("past", PASTS)
def test_a_deposed_leader_never_answers_from_the_past(
    make: MakeScene, past: Callable[[ReadScene], None], seed: int
) -> None:
    """Cut off or stopped by a signal, it answers when it has found the new leader."""
    past(make(3, WIDE, seed=seed))


@pytest.mark.parametrize("past", PASTS)
def test_answering_without_a_round_is_noticed(
    make: MakeScene, past: Callable[[ReadScene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake that a round prevents, made on purpose: the scenario turns red."""
    monkeypatch.setattr(Rules, "round_answered", lambda self, floor: True)
    with pytest.raises(AssertionError, match="from the past"):
        past(make(3, WIDE, seed=1))


def test_counting_answers_to_older_messages_is_noticed(
    make: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited in the socket of a stopped process was true before it was stopped."""
    answered = Rules.round_answered
    monkeypatch.setattr(Rules, "round_answered", lambda self, floor: answered(self, 0))
    with pytest.raises(AssertionError, match="from the past"):
        stopped(make(3, WIDE, seed=1))


def test_a_new_leader_answers_with_what_its_predecessor_acknowledged(make: MakeScene) -> None:
    """It may not have known of the commit when it was elected."""
    for seed in SEEDS:
        scene = make(3, seed=seed)
        old = scene.leader_name()
        scene.write_all(old, 5)
        last = max(scene.oracle.acknowledged.values())
        scene.kill(old)
        reads = [scene.read(name) for name in others(scene, old)]
        for read in reads:
            scene.until(read.done)
        assert all((read.result() or 0) >= last for read in reads)


def test_without_a_quorum_a_read_is_refused(make: MakeScene) -> None:
    """It ends at its deadline or, where no leader is known, within a few seconds."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 3)
    scene.isolate(leader)
    read = scene.read(leader, timeout_s=0.5)
    assert scene.until(read.done) == pytest.approx(0.5, abs=0.1)
    assert read.result() is None
    for name in others(scene, leader):
        scene.kill(name)
    read = scene.read(leader, timeout_s=60.0)
    assert scene.until(read.done) < LEADERLESS_S_MAX + 2 * SETTINGS.election_max_s
    assert read.result() is None


def test_a_question_that_was_lost_is_asked_again(make: MakeScene) -> None:
    """A follower's reader outlives the leader it asked, and every connection."""
    scene = make(5)
    leader = scene.leader_name()
    follower = others(scene, leader)[0]
    scene.write_all(leader, 3)
    scene.network.block(leader, follower)
    read = scene.read(follower, timeout_s=30.0)
    scene.rest(0.3)
    assert not read.done()
    scene.kill(leader)
    scene.network.heal()
    scene.until(read.done)
    assert read.result() is not None


def test_an_answer_to_an_earlier_life_counts_for_nobody(make: MakeScene) -> None:
    """A process that starts anew counts its questions anew; its session tells them apart."""
    scene = make()
    leader = scene.leader_name()
    follower = others(scene, leader)[0]
    scene.write_all(leader, 3)
    heard = scene.life(leader).heard
    assert scene.index_of(follower) is not None
    answered = [payload for _, payload in scene.life(follower).heard]
    assert len(answered) == 1
    assert heard
    scene.kill(follower)
    scene.start(follower)
    scene.until(lambda: scene.raft(follower).leader == leader)
    scene.write_all(leader, 3)
    scene.network.block(follower, leader)
    read = scene.read(follower, timeout_s=5.0)
    scene.life(follower).reads.receive(leader, answered[0])
    scene.rest(0.1)
    assert not read.done()
    scene.network.heal()
    scene.until(read.done)
    assert (read.result() or 0) >= max(scene.oracle.acknowledged.values())


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93", b"x" * 1_000])
def test_a_payload_that_is_no_message_is_ignored(make: MakeScene, payload: bytes) -> None:
    scene = make()
    leader = scene.leader_name()
    scene.life(leader).reads.receive("n2", payload)
    assert scene.index_of(leader) is not None
