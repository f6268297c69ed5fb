"""A token for joining: what is in it, and what it keeps to itself.

A token is made where the authority's key is, and used once on the machine that joins. It
names the cluster, the new member, where to ask, the authority by the SHA-256 of its
certificate, and a secret of 32 random bytes. Two things are derived from the secret and
cannot be turned into each other or back:

    proof    goes to the cluster, which knows its hash, and uses the token up
    key      stays here; it opens the bundle with the new member's certificate and key

So the cluster, its log and whoever reads along hold nothing with which to impersonate the
member, and what is unpacked is compared with the authority that the token names.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.clock import Environment

PREFIX = "cronclave1."
SECRET_BYTES = 32
# The key is used for one bundle and never again, so the nonce need not vary.
_NONCE = bytes(12)


class TokenError(Exception):
    """It is no token, or not one for this; the text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What a token says."""

    cluster: str
    member: str
    authority_sha256: str
    addresses: tuple[str, ...]
    secret: bytes

    @property
    def proof(self) -> bytes:
        """Return what proves to the cluster that one has the token."""
        return sha256(b"cronclave join proof\0" + self.secret).digest()

    @property
    def token_hash(self) -> bytes:
        """Return what the cluster knows of the token."""
        return sha256(self.proof).digest()

    @property
    def _key(self) -> AESGCM:
        return AESGCM(sha256(b"cronclave join bundle\0" + self.secret).digest())

    @property
    def _purpose(self) -> bytes:
        return f"{self.cluster}/{self.member}".encode()

    def seal(self, files: dict[str, bytes]) -> bytes:
        """Return files as a bundle that only this token opens."""
        plain = json.dumps({name: content.decode() for name, content in files.items()})
        return self._key.encrypt(_NONCE, plain.encode(), self._purpose)

    def unseal(self, bundle: bytes) -> dict[str, bytes]:
        """Return the files in a bundle.

        Raises:
            TokenError: it was not sealed with this token.
        """
        try:
            plain = self._key.decrypt(_NONCE, bundle, self._purpose)
            return {name: text.encode() for name, text in json.loads(plain).items()}
        except (InvalidTag, ValueError, AttributeError):
            raise TokenError(
                "What the cluster keeps for this token is not what was put there."
            ) from None

    def text(self) -> str:
        """Return the token as one word."""
        shown: dict[str, Any] = asdict(self) | {"secret": self.secret.hex()}
        encoded = urlsafe_b64encode(json.dumps(shown, separators=(",", ":")).encode())
        return PREFIX + encoded.decode().rstrip("=")


def new_token(
    cluster: str,
    member: str,
    authority_sha256: str,
    addresses: tuple[str, ...],
    environment: Environment,
) -> JoinToken:
    """Return a token with a secret that nobody has seen."""
    secret = environment.random.getrandbits(8 * SECRET_BYTES).to_bytes(SECRET_BYTES, "big")
    return JoinToken(
        cluster=cluster,
        member=member,
        authority_sha256=authority_sha256,
        addresses=addresses,
        secret=secret,
    )


def parse_token(text: str) -> JoinToken:
    """Return the token in a word.

    Raises:
        TokenError: it is none of this version, or not all of one.
    """
    try:
        encoded = text.strip().removeprefix(PREFIX)
        found = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        secret = bytes.fromhex(found["secret"])
        token = JoinToken(
            cluster=str(found["cluster"]),
            member=str(found["member"]),
            authority_sha256=str(found["authority_sha256"]),
            addresses=tuple(str(address) for address in found["addresses"]),
            secret=secret,
        )
    except (ValueError, KeyError, TypeError):
        token = None
    if token is None or not text.strip().startswith(PREFIX) or len(token.secret) != SECRET_BYTES:
        raise TokenError(
            "This is not a whole token; `cronclave cluster token` prints it as one word that "
            f"begins with {PREFIX}"
        )
    return token
