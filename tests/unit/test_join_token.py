"""What a token for joining gives away, and to whom."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from consensus.network.certificates import (
    CA_CERTIFICATE,
    MEMBER_CERTIFICATE,
    CertificateError,
    authority_sha256,
    check_issued,
    create_authority,
    issue_member,
)
from node.join_token import PREFIX, JoinToken, TokenError, new_token, parse_token
from storage.clock import SystemEnvironment

ENVIRONMENT = SystemEnvironment()
FILES = {"ca.pem": b"public", "member.key": b"private"}


def make(member: str = "n4") -> JoinToken:
    return new_token("c", member, "ab" * 32, ("http://127.0.0.1:1",), ENVIRONMENT)


def test_a_token_is_one_word_that_is_read_back() -> None:
    """It survives being copied with the blanks around it."""
    token = make()
    assert token.text().startswith(PREFIX)
    assert " " not in token.text()
    assert parse_token(f"  {token.text()}\n") == token
    assert make().secret != token.secret


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cronclave1.",
        "n4",
        PREFIX + urlsafe_b64encode(b"[]").decode(),
        PREFIX + urlsafe_b64encode(b'{"cluster":"c"}').decode(),
        PREFIX + urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    """Part of one, or something else from the clipboard."""
    with pytest.raises(TokenError, match="not a whole token"):
        parse_token(text)


def test_a_token_that_was_cut_short_is_refused() -> None:
    """However much of it is missing."""
    text = make().text()
    for length in range(len(text)):
        with pytest.raises(TokenError):
            parse_token(text[:length])


def test_what_proves_the_token_does_not_open_the_bundle() -> None:
    """The cluster learns a hash of the proof, and stores a bundle that it cannot read."""
    token = make()
    bundle = token.seal(FILES)
    assert token.unseal(bundle) == FILES
    assert b"private" not in bundle
    assert token.token_hash == sha256(token.proof).digest()
    for key in (token.proof, token.token_hash):
        guess = JoinToken(cluster="c", member="n4", authority_sha256="", addresses=(), secret=key)
        with pytest.raises(TokenError):
            guess.unseal(bundle)


def test_a_bundle_is_for_one_member_and_not_to_be_changed() -> None:
    """Neither another name nor a flipped bit goes unnoticed."""
    token = make()
    bundle = token.seal(FILES)
    other = JoinToken(
        cluster="c", member="n5", authority_sha256="", addresses=(), secret=token.secret
    )
    with pytest.raises(TokenError):
        other.unseal(bundle)
    with pytest.raises(TokenError):
        token.unseal(bytes([bundle[0] ^ 1]) + bundle[1:])


def test_a_certificate_is_compared_with_its_authority(tmp_path: Path) -> None:
    """A certificate of another authority, or for somebody else, is none."""
    made: dict[str, dict[str, bytes]] = {}
    for authority in ("ours", "theirs"):
        create_authority(tmp_path / authority, cluster="c", environment=ENVIRONMENT)
        place = tmp_path / f"{authority}-n4"
        issue_member(tmp_path / authority, place, cluster="c", member="n4", environment=ENVIRONMENT)
        made[authority] = {file.name: file.read_bytes() for file in place.iterdir()}
    ours, theirs = made["ours"], made["theirs"]
    ca, certificate = ours[CA_CERTIFICATE], ours[MEMBER_CERTIFICATE]
    assert authority_sha256(ca) != authority_sha256(theirs[CA_CERTIFICATE])
    check_issued(ca, certificate, cluster="c", member="n4")
    with pytest.raises(CertificateError, match="not one of this authority"):
        check_issued(ca, theirs[MEMBER_CERTIFICATE], cluster="c", member="n4")
    for cluster, member in (("c", "n5"), ("d", "n4")):
        with pytest.raises(CertificateError, match="names"):
            check_issued(ca, certificate, cluster=cluster, member=member)
    with pytest.raises(CertificateError, match="no certificate"):
        authority_sha256(b"-----BEGIN NOTHING-----")
