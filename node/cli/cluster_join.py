"""`cronclave cluster join`: a token becomes a member, ready to be started."""

from __future__ import annotations

import os
import time
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import addresses
from node.cli.client import Client
from node.cli.cluster_init import CERTIFICATES, FILE, HTTP_PORT
from node.cli.commands import Command
from node.cli.exits import CONFLICT, TIMEOUT, USAGE, CommandFailed
from node.cli.output import say
from storage.clock import Environment, SystemEnvironment

if TYPE_CHECKING:
    from node.join_token import JoinToken

ADMITTED_S_MAX = 60.0
POLL_S = 0.2
DATA_DIR = "data/{name}"


@click.command(
    cls=Command,
    examples="""
        cronclave cluster join TOKEN --name n4 --address 10.0.0.4:7901 --dir /etc/cronclave
        cronclave node --config /etc/cronclave/cluster.toml
    """,
)
@click.argument("token")
@click.option("--name", required=True, metavar="NAME", help="The name that the token is for.")
@click.option(
    "--address", required=True, metavar="HOST:PORT", help="Where the members will reach it."
)
@click.option("--dir", "directory", required=True, metavar="DIR", help="Where to put its files.")
@click.option(
    "--http-port", type=click.IntRange(1, 65_535), default=HTTP_PORT, show_default=True,
    metavar="PORT", help="Port of its API.",
)  # fmt: skip
@click.option(
    "--addr", envvar=addresses.VARIABLE, metavar="URL[,URL...]",
    help=f"Nodes to ask, instead of those in the token.  [{addresses.VARIABLE}]",
)  # fmt: skip
def join(
    token: str, name: str, address: str, directory: str, http_port: int, addr: str | None
) -> None:
    """Join a cluster with a TOKEN: make the new member's files and have it taken in.

    The certificate is checked against the authority that the token names. Called again with
    the same token, name and address it goes on where it was interrupted.
    """
    from consensus.configuration import split_address  # noqa: PLC0415
    from node.join_token import TokenError, parse_token  # noqa: PLC0415

    place = Path(directory).absolute()
    if (place / FILE).exists():
        raise CommandFailed(f"{place / FILE} exists already; choose another --dir.", CONFLICT)
    if split_address(address) is None:
        raise CommandFailed(f'--address takes HOST:PORT, not "{address}".', USAGE)
    try:
        found = parse_token(token)
        if found.member != name:
            raise CommandFailed(f"The token is for {found.member}, not for {name}.", USAGE)
        environment = SystemEnvironment()
        client = Client(addresses.parse_addresses(addr or ",".join(found.addresses)), environment)
        _take_in(client, found, address, place, http_port, environment)
    except TokenError as error:
        raise CommandFailed(str(error), CONFLICT) from None
    except OSError as error:
        raise CommandFailed(f"{error.filename or place}: {error.strerror}.") from None
    click.echo(str(place / FILE))
    say(f"Next: cronclave node --config {place / FILE}")


def _take_in(
    client: Client,
    token: JoinToken,
    address: str,
    place: Path,
    http_port: int,
    environment: Environment,
) -> None:
    from node.config.settings import MemberConfig  # noqa: PLC0415
    from node.config.text import render_new  # noqa: PLC0415

    _check_release(client)
    wish = {"proof": token.proof.hex(), "name": token.member, "address": address}
    # The key comes from the request, so that a second call gets the answer of the first one.
    key = sha256(f"{token.token_hash.hex()} {address}".encode()).hexdigest()
    answer = client.post("/v1/members", wish, key=f"join-{key}").json()
    _write_certificates(place / CERTIFICATES / token.member, token, b64decode(answer["bundle"]))
    index, content = _admitted(client, token)
    _write_journal(place / DATA_DIR.format(name=token.member), token, index, content, environment)
    member = MemberConfig(name=token.member, address=address, http_port=http_port)
    text = render_new(
        token.cluster, [member], data_dir=DATA_DIR, certificates=CERTIFICATES, joined=True
    )
    # The file's presence says that everything else is there.
    draft = place / f"{FILE}.new"
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, place / FILE)


def _check_release(client: Client) -> None:
    """Refuse before there is a seat what the first entry of the log would refuse behind it."""
    from consensus.features import FIRST, LevelUnsupported, check_level  # noqa: PLC0415

    try:
        check_level(client.get("/v1/cluster").json().get("feature_level", FIRST))
    except LevelUnsupported as error:
        raise CommandFailed(str(error), CONFLICT) from None


def _write_certificates(folder: Path, token: JoinToken, bundle: bytes) -> None:
    from consensus.network.certificates import (  # noqa: PLC0415
        CA_CERTIFICATE,
        MEMBER_CERTIFICATE,
        MEMBER_KEY,
        CertificateError,
        authority_sha256,
        check_issued,
    )

    files = token.unseal(bundle)
    try:
        authority = files[CA_CERTIFICATE]
        if authority_sha256(authority) != token.authority_sha256:
            raise CommandFailed("The cluster has another authority than the token.", CONFLICT)
        check_issued(
            authority, files[MEMBER_CERTIFICATE], cluster=token.cluster, member=token.member
        )
    except (CertificateError, KeyError) as error:
        raise CommandFailed(f"The certificate is refused: {error}", CONFLICT) from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (CA_CERTIFICATE, MEMBER_CERTIFICATE, MEMBER_KEY):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(folder / name, flags, 0o600), "wb") as file:
            file.write(files[name])


def _admitted(client: Client, token: JoinToken) -> tuple[int, bytes]:
    """Wait until the log says that the member belongs to the cluster; return what it says.

    A seat of its name that is older than the token may be there still: it belongs to another.
    """
    name = token.member
    deadline_s = time.monotonic() + ADMITTED_S_MAX
    while True:
        found: dict[str, Any] = client.get("/v1/cluster/configuration").json()
        content = b64decode(found["content"])
        if content and _has_seat(content, token):
            return int(found["index"]), content
        if time.monotonic() > deadline_s:
            raise CommandFailed(
                f"The cluster did not take {name} in within {ADMITTED_S_MAX:.0f} s; it may yet. "
                "Run the same command again.",
                TIMEOUT,
            )
        time.sleep(POLL_S)


def _has_seat(content: bytes, token: JoinToken) -> bool:
    from consensus.configuration import (  # noqa: PLC0415
        ConfigurationError,
        decode_configuration,
    )
    from consensus.state.apply_seats import seat_id_of  # noqa: PLC0415

    try:
        seat = decode_configuration(content).seat(token.member)
    except ConfigurationError as error:
        raise CommandFailed(str(error), CONFLICT) from None
    return seat is not None and seat.seat_id == seat_id_of(token.token_hash)


def _write_journal(
    data_dir: Path, token: JoinToken, index: int, content: bytes, environment: Environment
) -> None:
    """Let the member begin with the cluster's configuration and an empty log."""
    from storage.journal import LmdbJournal  # noqa: PLC0415
    from storage.journal_format import Batch  # noqa: PLC0415

    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    journal = LmdbJournal(
        data_dir / "journal", cluster=token.cluster, member=token.member, environment=environment
    )
    try:
        if journal.last_index:
            raise CommandFailed(f"{data_dir} has a log already; choose another --dir.", CONFLICT)
        journal.write(Batch(configuration=(index, content)))
    finally:
        journal.close()
