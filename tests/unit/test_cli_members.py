"""Commands that change who belongs to the cluster, against a stand-in of the API."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from consensus import features
from consensus.configuration import Seat, encode_configuration, first_configuration
from consensus.network.certificates import MEMBER_KEY, create_authority
from node.cli import exits
from node.cli.cluster_join import DATA_DIR
from node.cli.program import run
from node.config import load_config
from node.join_token import parse_token
from storage.clock import SystemEnvironment
from storage.journal import LmdbJournal
from tests.support.stub_api import Asked, Reply, StubApi, problem, stub_api

Captured = pytest.CaptureFixture[str]
ENVIRONMENT = SystemEnvironment()
THREE = first_configuration({"n1": "10.0.0.1:7901"})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with stub_api() as found:
        monkeypatch.setenv("CRONCLAVE_ADDR", found.url)
        found.on("GET", "/v1/cluster", Reply(document={"cluster": "c"}))
        members = [{"name": "n1", "http_address": found.url}]
        found.on("GET", "/v1/members", Reply(document={"items": members, "next_cursor": None}))
        yield found


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    place = tmp_path / "authority"
    create_authority(place, cluster="c", environment=ENVIRONMENT)
    return place


class Cluster:
    """The part of the cluster that a token meets: it knows its hash and keeps its bundle."""

    def __init__(self, api: StubApi) -> None:
        self.issued: dict[str, str] = {}
        self.keys: list[str] = []
        self.configuration = THREE
        api.do("POST", "/v1/cluster/tokens", self.issue)
        api.do("POST", "/v1/members", self.join)
        api.do("GET", "/v1/cluster/configuration", self.show)

    def issue(self, asked: Asked) -> Reply:
        self.issued = asked.document
        expires = {"name": self.issued["name"], "expires_at": "2026-01-01T00:00:00.000Z"}
        return Reply(document=expires | {"role": self.issued["role"]}, status=201)

    def join(self, asked: Asked) -> Reply:
        self.keys.append(asked.headers["idempotency-key"])
        proof = bytes.fromhex(asked.document["proof"])
        if sha256(proof).hexdigest() != self.issued["token_hash"]:
            return problem(403, "token_invalid")
        seat = Seat("n4", asked.document["address"], "learner", sha256(proof).digest()[:16])
        self.configuration = THREE.having(seat)
        return Reply(document={"name": "n4", "bundle": self.issued["bundle"]}, status=202)

    def show(self, _: Asked) -> Reply:
        content = b64encode(encode_configuration(self.configuration)).decode()
        members = [{"name": s.name, "role": s.role} for s in self.configuration.seats]
        return Reply(document={"index": 60, "content": content, "members": members})


def join(token: str, place: Path, *options: str) -> int:
    arguments = ["--name", "n4", "--address", "10.0.0.4:7901", "--dir", str(place)]
    return run(["cluster", "join", token, *arguments, *options])


def test_a_token_becomes_a_member_that_can_be_started(
    api: StubApi, authority: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Certificate, journal and file are there, private, and belong together."""
    cluster = Cluster(api)
    assert run(["cluster", "token", "n4", "--authority", str(authority)]) == exits.OK
    token = capsys.readouterr().out.strip()
    assert parse_token(token).addresses == (api.url,)
    assert b"PRIVATE" not in b64decode(cluster.issued["bundle"])
    place = tmp_path / "n4"
    assert join(token, place) == exits.OK
    config = load_config(place / "cluster.toml", {}, {})
    assert (config.node.name, config.cluster.joined) == ("n4", True)
    assert config.tls.key is not None
    assert config.tls.key.name == MEMBER_KEY
    assert config.tls.key.stat().st_mode & 0o777 == 0o600
    assert config.node.data_dir == place / DATA_DIR.format(name="n4")
    journal = LmdbJournal(
        config.node.data_dir / "journal", cluster="c", member="n4", environment=ENVIRONMENT
    )
    assert journal.configuration == (60, encode_configuration(cluster.configuration))
    journal.close()
    assert join(token, place) == exits.CONFLICT


def test_a_release_below_the_clusters_level_does_not_join(
    api: StubApi, authority: Path, tmp_path: Path, capsys: Captured
) -> None:
    """It is refused before the token is used, so the right release can use it."""
    cluster = Cluster(api)
    assert run(["cluster", "token", "n4", "--authority", str(authority)]) == exits.OK
    token = capsys.readouterr().out.strip()
    later = {"cluster": "c", "feature_level": features.CURRENT + 1}
    api.on("GET", "/v1/cluster", Reply(document=later))
    assert join(token, tmp_path / "n4") == exits.CONFLICT
    assert f"supports up to {features.CURRENT}" in capsys.readouterr().err
    assert cluster.keys == []
    assert not (tmp_path / "n4").exists()


def test_an_interrupted_join_goes_on(
    api: StubApi, authority: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The same request under the same key, so the cluster gives the same answer."""
    cluster = Cluster(api)
    run(["cluster", "token", "n4", "--authority", str(authority)])
    token = capsys.readouterr().out.strip()
    place = tmp_path / "n4"
    join(token, place)
    (place / "cluster.toml").unlink()
    assert join(token, place) == exits.OK
    assert cluster.keys[0] == cluster.keys[1]


def test_whoever_joins_waits_for_its_own_seat(
    api: StubApi, authority: Path, tmp_path: Path, capsys: Captured
) -> None:
    """A seat of the same name that is still to go makes nobody a member.

    Who began with it would hear that it was removed, and its token would be used up.
    """
    cluster = Cluster(api)
    run(["cluster", "token", "n4", "--authority", str(authority)])
    token = capsys.readouterr().out.strip()
    left = [THREE.having(Seat("n4", "10.0.0.9:7901", "voter", b"before")), THREE]

    def show(asked: Asked) -> Reply:
        present = cluster.configuration
        cluster.configuration = left.pop(0) if left else present
        reply = cluster.show(asked)
        cluster.configuration = present
        return reply

    api.do("GET", "/v1/cluster/configuration", show)
    place = tmp_path / "n4"
    assert join(token, place) == exits.OK
    data_dir = load_config(place / "cluster.toml", {}, {}).node.data_dir
    journal = LmdbJournal(data_dir / "journal", cluster="c", member="n4", environment=ENVIRONMENT)
    assert journal.configuration == (60, encode_configuration(cluster.configuration))
    journal.close()


def test_a_cluster_of_another_authority_is_refused(
    api: StubApi, authority: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Whoever answers at the addresses in the token has to have what was sealed for it."""
    cluster = Cluster(api)
    run(["cluster", "token", "n4", "--authority", str(authority)])
    token = capsys.readouterr().out.strip()
    cluster.issued = cluster.issued | {"bundle": b64encode(b"something else").decode()}
    assert join(token, tmp_path / "n4") == exits.CONFLICT
    assert not (tmp_path / "n4" / "cluster.toml").exists()
    assert "is not what was put there" in capsys.readouterr().err


def test_mistakes_are_noticed_before_anything_is_sent(
    api: StubApi, tmp_path: Path, capsys: Captured
) -> None:
    """Another name, a bad address, half a token, no authority."""
    assert run(["cluster", "token", "n4", "--authority", str(tmp_path)]) == exits.CONFLICT
    assert "--authority says where" in capsys.readouterr().err
    assert join("cronclave1.abc", tmp_path / "x") == exits.CONFLICT
    bad = ["--name", "n4", "--address", "nowhere", "--dir", str(tmp_path / "x")]
    assert run(["cluster", "join", "cronclave1.abc", *bad]) == exits.USAGE
    assert not [asked for asked in api.asked if asked.method == "POST"]


def test_a_replacement_names_who_goes(api: StubApi, authority: Path, capsys: Captured) -> None:
    """It is a token like any other, with a wish that comes true by itself."""
    cluster = Cluster(api)
    words = ["cluster", "replace", "n1", "n4", "--authority", str(authority), "-o", "json"]
    assert run(words) == exits.OK
    assert parse_token(json.loads(capsys.readouterr().out)["token"]).member == "n4"
    assert (cluster.issued["replaces"], cluster.issued["role"]) == ("n1", "voter")


@pytest.mark.parametrize(
    ("words", "method", "body", "after"),
    [
        (["remove", "n4", "--yes"], "DELETE", None, []),
        (["promote", "n4"], "PATCH", {"role": "voter"}, [{"name": "n4", "role": "voter"}]),
        (["demote", "n4"], "PATCH", {"role": "nonvoting"}, [{"name": "n4", "role": "nonvoting"}]),
        (
            ["move", "n4", "h:1"],
            "PATCH",
            {"address": "h:1"},
            [{"name": "n4", "role": "voter", "address": "h:1"}],
        ),
    ],
    ids=["remove", "promote", "demote", "move"],
)
def test_a_command_waits_until_the_change_is_made(
    api: StubApi, words: list[str], method: str, body: object, after: list[object]
) -> None:
    """What the log says counts, not what was agreed upon."""
    api.on(method, "/v1/members/n4", Reply(document={"name": "n4"}, status=202))
    before = [{"name": "n4", "role": "learner", "address": "10.0.0.4:7901"}]
    api.on(
        "GET",
        "/v1/cluster/configuration",
        Reply(document={"members": before}),
        Reply(document={"members": after}),
    )
    assert run(["cluster", *words]) == exits.OK
    sent = [asked for asked in api.asked if asked.method == method]
    assert len(sent) == 1
    assert (json.loads(sent[0].body) if sent[0].body else None) == body
    shown = [asked for asked in api.asked if asked.path == "/v1/cluster/configuration"]
    assert len(shown) == 2
    assert run(["cluster", *words, "--no-wait"]) == exits.OK
    assert len([a for a in api.asked if a.path == "/v1/cluster/configuration"]) == 2
