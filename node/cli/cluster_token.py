"""`cronclave cluster token` and `replace`: permissions to join, made where the CA's key is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from node.cli.client import Client
from node.cli.commands import Command
from node.cli.exits import CONFLICT, CommandFailed
from node.cli.output import say
from node.cli.session import Session, addressed

AUTHORITY = click.option(
    "--authority", "authority", default="authority", show_default=True, metavar="DIR",
    help="Where `cluster init` has put ca.pem and ca.key.",
)  # fmt: skip
EXPIRES = click.option(
    "--expires", default="1h", show_default=True, metavar="DURATION", help="Until it is void."
)
NONVOTING = click.option(
    "--nonvoting", is_flag=True, help="For a member that executes and has no vote, for good."
)


@click.command(
    cls=Command,
    examples="""
        cronclave cluster token n4 --authority new/authority
        cronclave cluster token worker-7 --nonvoting --expires 10m
    """,
)
@click.argument("name")
@NONVOTING
@EXPIRES
@AUTHORITY
@addressed
def token(session: Session, /, name: str, nonvoting: bool, expires: str, authority: str) -> None:
    """Let the member NAME join once: print a token for `cronclave cluster join`.

    Its certificate is made here, with the authority's key, which no node has. Whoever has the
    token can join in its place, so pass it on as you would pass on a password.
    """
    role = "nonvoting" if nonvoting else "voter"
    _issue(session, name, authority, {"role": role, "expires_in": expires})


@click.command(cls=Command, examples="cronclave cluster replace n2 n6 --authority new/authority")
@click.argument("old")
@click.argument("new")
@NONVOTING
@EXPIRES
@AUTHORITY
@addressed
def replace(
    session: Session, /, old: str, new: str, nonvoting: bool, expires: str, authority: str
) -> None:
    """Put the member NEW in the place of OLD: print a token for NEW.

    OLD is removed by itself as soon as NEW has caught up, and may be dead by then.
    """
    role = "nonvoting" if nonvoting else "voter"
    _issue(session, new, authority, {"role": role, "expires_in": expires, "replaces": old})


def _issue(session: Session, name: str, authority: str, wish: dict[str, Any]) -> None:
    from base64 import b64encode  # noqa: PLC0415

    from consensus.network.certificates import CA_CERTIFICATE, authority_sha256  # noqa: PLC0415
    from node.join_token import new_token  # noqa: PLC0415

    cluster = str(session.client.get("/v1/cluster").json()["cluster"])
    files = _certificate(Path(authority), cluster, name, session)
    addresses = _addresses(session.client)
    fingerprint = authority_sha256(files[CA_CERTIFICATE])
    made = new_token(cluster, name, fingerprint, addresses, session.environment)
    document = wish | {
        "name": name,
        "token_hash": made.token_hash.hex(),
        "bundle": b64encode(made.seal(files)).decode(),
    }
    issued = session.client.post("/v1/cluster/tokens", document).json()
    if session.printer.form in ("json", "yaml"):
        session.printer.data(issued | {"token": made.text()})
        return
    click.echo(made.text())
    say(
        f"Valid once, until {issued['expires_at']}. On the machine of {name}, run\n"
        f"  cronclave cluster join TOKEN --name {name} --address HOST:PORT --dir DIR"
    )


def _certificate(authority: Path, cluster: str, name: str, session: Session) -> dict[str, bytes]:
    from consensus.network.certificates import CertificateError, issue_member  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="cronclave-token-") as folder:
        place = Path(folder)
        try:
            issue_member(
                authority, place, cluster=cluster, member=name, environment=session.environment
            )
        except CertificateError as error:
            raise CommandFailed(
                f"{error}\nThe cluster's authority is needed here; --authority says where it is.",
                CONFLICT,
            ) from None
        return {file.name: file.read_bytes() for file in sorted(place.iterdir())}


def _addresses(client: Client) -> tuple[str, ...]:
    """Return where the members' APIs are, as they say themselves."""
    members = client.items("/v1/members", (), None)
    return tuple(str(member["http_address"]) for member in members if member.get("http_address"))
