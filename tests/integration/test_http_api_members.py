"""Who belongs to the cluster, over HTTP."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio

from consensus.configuration import (
    Configuration,
    Seat,
    decode_configuration,
    first_configuration,
)
from tests.support.api_client import ApiClient, api_client

ALPHA = first_configuration({"alpha": "10.0.0.1:7901"})
PROOF = sha256(b"proof").digest()
HASH = sha256(PROOF).digest()
BUNDLE = b64encode(b"sealed").decode()
TOKEN = {"token_hash": HASH.hex(), "name": "n4", "bundle": BUNDLE}
JOIN = {"proof": PROOF.hex(), "name": "n4", "address": "10.0.0.4:7901"}


def configure(client: ApiClient, configuration: Configuration) -> None:
    machine = client.cluster.machine
    index = machine.applied_index + 1
    machine.apply(index, 1, b"", client.cluster.effects, configuration)
    machine.finish()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ApiClient]:
    async with api_client() as served:
        configure(served, ALPHA)
        served.cluster.heartbeat()
        yield served


async def configuration(client: ApiClient) -> dict[str, Any]:
    answer = await client.get("/v1/cluster/configuration")
    assert answer.status == 200, answer.body
    return {member.pop("name"): member for member in answer.json["members"]}


async def test_a_cluster_that_has_just_begun_shows_no_members() -> None:
    """There is nothing in its log yet to show."""
    async with api_client() as served:
        answer = await served.get("/v1/cluster/configuration")
        assert answer.json == {"index": 0, "content": "", "members": []}


async def test_a_token_is_made_and_used_up(client: ApiClient) -> None:
    """The joiner gets the sealed bundle back, and what is wanted shows before it is done."""
    answer = await client.send("POST", "/v1/cluster/tokens", TOKEN | {"expires_in": "10m"})
    assert answer.status == 201, answer.body
    assert answer.json["role"] == "voter"
    answer = await client.send("POST", "/v1/members", JOIN)
    assert answer.status == 202, answer.body
    assert b64decode(answer.json["bundle"]) == b"sealed"
    assert (await configuration(client))["n4"] == {
        "role": None, "address": None, "wanted_role": "voter",
        "wanted_address": "10.0.0.4:7901", "replaces": None,
    }  # fmt: skip
    (await client.send("POST", "/v1/members", JOIN)).problem(403, "token_invalid")


async def test_a_joiner_that_asks_again_gets_its_answer_again(client: ApiClient) -> None:
    """With the same idempotency key, as after a lost answer."""
    await client.send("POST", "/v1/cluster/tokens", TOKEN)
    key = {"Idempotency-Key": "join"}
    first = await client.send("POST", "/v1/members", JOIN, headers=key)
    again = await client.send("POST", "/v1/members", JOIN, headers=key)
    assert (again.status, again.json) == (202, first.json)


async def test_a_token_gives_nothing_away_once_its_member_has_joined(client: ApiClient) -> None:
    """Who finds it later learns nothing, though it be asked as the joiner has asked."""
    await client.send("POST", "/v1/cluster/tokens", TOKEN)
    key = {"Idempotency-Key": "join"}
    assert (await client.send("POST", "/v1/members", JOIN, headers=key)).status == 202
    configure(client, ALPHA.having(Seat("n4", "10.0.0.4:7901", "learner", HASH[:16])))
    client.cluster.heartbeat("n4", b"4" * 16)
    again = await client.send("POST", "/v1/members", JOIN, headers=key)
    assert "has joined" in again.problem(403, "token_invalid")["detail"]


async def test_the_content_is_what_a_newcomer_begins_with(client: ApiClient) -> None:
    """It is the configuration in the log, byte for byte."""
    four = ALPHA.having(Seat("n4", "10.0.0.4:7901", "learner", HASH[:16]))
    configure(client, four)
    answer = await client.get("/v1/cluster/configuration")
    assert decode_configuration(b64decode(answer.json["content"])) == four
    assert answer.json["index"] == client.cluster.applied_index
    listed = (await client.get("/v1/members")).json["items"]
    assert [(member["name"], member["role"]) for member in listed] == [("alpha", "voter")]


async def test_members_are_changed_and_removed(client: ApiClient) -> None:
    """It is agreed at once, and done by the leader afterwards."""
    await client.send("POST", "/v1/cluster/tokens", TOKEN)
    await client.send("POST", "/v1/members", JOIN)
    wish = {"role": "nonvoting", "address": "10.0.0.5:7901"}
    answer = await client.send("PATCH", "/v1/members/n4", wish)
    assert (answer.status, answer.json) == (202, {"name": "n4"})
    found = (await configuration(client))["n4"]
    assert (found["wanted_role"], found["wanted_address"]) == ("nonvoting", "10.0.0.5:7901")
    assert (await client.send("DELETE", "/v1/members/n4")).status == 202
    assert set(await configuration(client)) == {"alpha"}
    (await client.send("DELETE", "/v1/members/n4")).problem(404, "not_found")
    (await client.send("DELETE", "/v1/members/alpha")).problem(409, "members_invalid")


@pytest.mark.parametrize(
    ("path", "document", "pointers"),
    [
        ("/v1/cluster/tokens", {}, {"/token_hash", "/name", "/bundle"}),
        ("/v1/cluster/tokens", TOKEN | {"token_hash": "AB"}, {"/token_hash"}),
        ("/v1/cluster/tokens", TOKEN | {"role": "king", "name": "-"}, {"/role", "/name"}),
        ("/v1/cluster/tokens", TOKEN | {"expires_in": "900d"}, {"/expires_in"}),
        ("/v1/cluster/tokens", TOKEN | {"bundle": "%"}, {"/bundle"}),
        ("/v1/members", {"proof": 1, "name": "n4", "address": "here"}, {"/proof", "/address"}),
        ("/v1/members", JOIN | {"role": "voter"}, {"/role"}),
    ],
)
async def test_what_makes_no_sense_is_refused_with_all_its_faults(
    client: ApiClient, path: str, document: object, pointers: set[str]
) -> None:
    """Nothing of it reaches the cluster."""
    before = client.cluster.proposals
    answer = await client.send("POST", path, document)
    answer.problem(422, "invalid_document")
    assert answer.pointers() == pointers
    assert client.cluster.proposals == before
