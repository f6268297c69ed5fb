"""`cronclave cluster init`: the certificates and the configuration file of a new cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.commands import Command
from node.cli.exits import CONFLICT, USAGE, CommandFailed
from node.cli.output import say
from storage.clock import Environment, SystemEnvironment

if TYPE_CHECKING:
    from node.config.settings import MemberConfig

FILE = "cluster.toml"
AUTHORITY = "authority"
CERTIFICATES = "certificates"
HTTP_PORT = 8901


@click.command(
    cls=Command,
    examples="""
        cronclave cluster init --dir new --member n1=10.0.0.1:7901 \\
            --member n2=10.0.0.2:7901 --member n3=10.0.0.3:7901
    """,
)
@click.option("--dir", "directory", required=True, metavar="DIR", help="Where to put the files.")
@click.option("--name", default="cronclave", show_default=True, help="Name of the cluster.")
@click.option(
    "--member", "texts", multiple=True, required=True, metavar="NAME=HOST:PORT", help="Repeat it."
)
def init(directory: str, name: str, texts: tuple[str, ...]) -> None:
    """Make a certificate authority, a certificate for each member, and a cluster.toml.

    Nothing is started and nothing is sent. Members that share a host get API ports of their
    own.
    """
    place = Path(directory)
    if (place / FILE).exists():
        raise CommandFailed(f"{place / FILE} exists already; choose another --dir.", CONFLICT)
    members = members_of(texts)
    make_cluster(place, name, members, "data/{name}", SystemEnvironment())
    click.echo(str(place / FILE))
    say(_next_steps(place, [member.name for member in members]))


def members_of(texts: Sequence[str]) -> list[MemberConfig]:
    """Return the members that options of the form NAME=HOST:PORT describe."""
    from consensus.configuration import split_address  # noqa: PLC0415
    from node.config.settings import MemberConfig  # noqa: PLC0415

    hosts = Counter[str]()
    parsed = []
    for text in texts:
        name, _, address = text.partition("=")
        found = split_address(address)
        if found is None:
            raise CommandFailed(f'--member takes NAME=HOST:PORT, not "{text}".', USAGE)
        parsed.append((name, address, found[0]))
        hosts[found[0]] += 1
    ports = Counter[str]()
    members = []
    for name, address, host in parsed:
        port = HTTP_PORT + ports[host] if hosts[host] > 1 else None
        ports[host] += 1
        members.append(MemberConfig(name=name, address=address, http_port=port))
    return members


def make_cluster(
    place: Path,
    name: str,
    members: Sequence[MemberConfig],
    data_dir: str,
    environment: Environment,
) -> None:
    """Write authority, certificates and, last, the configuration file of a new cluster.

    Raises:
        CommandFailed: the members make no cluster, or a file cannot be written.
    """
    from consensus.configuration import split_address  # noqa: PLC0415
    from consensus.network.certificates import (  # noqa: PLC0415
        CertificateError,
        create_authority,
        issue_member,
    )
    from node.config.text import render_new  # noqa: PLC0415

    text = render_new(name, members, data_dir=data_dir, certificates=CERTIFICATES)
    check_members(name, members, data_dir)
    authority = place / AUTHORITY
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_authority(authority, cluster=name, environment=environment)
        for member in members:
            host, _ = split_address(member.address) or ("", 0)
            folder = place / CERTIFICATES / member.name
            issue_member(
                authority,
                folder,
                cluster=name,
                member=member.name,
                hosts=[host],
                environment=environment,
            )
        # The file's presence says that everything else is there.
        draft = place / f"{FILE}.new"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, place / FILE)
    except OSError as error:
        raise CommandFailed(f"{error.filename or place}: {error.strerror}.") from None
    except CertificateError as error:
        raise CommandFailed(str(error), CONFLICT) from None


def check_members(name: str, members: Sequence[MemberConfig], data_dir: str) -> None:
    """Refuse what a node would refuse, before anything is written."""
    import tomllib  # noqa: PLC0415

    from node.config.reader import Reader  # noqa: PLC0415
    from node.config.text import render_new  # noqa: PLC0415

    text = render_new(name, members, data_dir=data_dir, certificates=CERTIFICATES)
    reader = Reader(Path.cwd())
    reader.add_file(tomllib.loads(text), "")
    reader.add_overrides({"node.name": members[0].name}, Path.cwd())
    if reader.finish() is None:
        raise CommandFailed("\n".join(str(fault) for fault in reader.faults), USAGE)


def _next_steps(place: Path, names: Sequence[str]) -> str:
    return (
        f"Next: copy {FILE} and {CERTIFICATES}/NAME to the machine of each member, and start\n"
        f"  cronclave node --config {FILE} --name NAME      (one of {', '.join(names)})\n"
        f"Keep {place / AUTHORITY} where no node is: who has its key can join the cluster."
    )
