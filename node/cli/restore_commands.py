"""Commands that make a new cluster of an old one's state: `cluster restore`, `cluster recover`.

Both end the old cluster: from then on its jobs run in the new one, and whatever is left of
the old one would run them a second time. No program can see whether all of it is gone, so
a person has to say so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.backup_commands import decide_tail, failures, write_survivor
from node.cli.cluster_init import FILE, check_members, make_cluster, members_of
from node.cli.commands import Command
from node.cli.exits import CONFLICT, USAGE, CommandFailed
from node.cli.output import say
from storage.clock import SystemEnvironment

if TYPE_CHECKING:
    from node.config.settings import MemberConfig
    from node.restoration import Restored

_NUMBERED = re.compile(r"(.+)-r([0-9]{1,6})")
RECOVERED = "recovered.backup"
DATA_DIR = "data/{name}"

Function = Callable[..., Any]


def _new_cluster(function: Function) -> Function:
    """Give a command the options that describe the new cluster."""
    for option in (
        click.option("--member", "texts", multiple=True, required=True, metavar="NAME=HOST:PORT",
                     help="A member of the new cluster. Repeat it."),
        click.option("--name", metavar="NAME", help="Name of the new cluster; not the old one's."),
        click.option("--dir", "directory", required=True, metavar="DIR",
                     help="Where to put the new cluster; it must not exist, or be empty."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command(
    cls=Command,
    examples="""
        cronclave cluster restore monday.backup --dir new --member n1=10.0.0.1:7901 \\
            --member n2=10.0.0.2:7901 --member n3=10.0.0.3:7901
    """,
)
@click.argument("file", metavar="FILE")
@_new_cluster
@click.option(
    "--old-cluster-is-gone", "confirmed", is_flag=True, help="Do not ask; for scripts that know."
)
def restore(
    file: str, directory: str, name: str | None, texts: tuple[str, ...], confirmed: bool
) -> None:
    """Make a new cluster that begins with a backup.

    It gets certificates, a cluster.toml and, for each member, a data directory with the
    state. Runs that were live in the backup go back to the queue or end as unknown, as
    their jobs want it. What the old cluster did after the backup is not known to the new one.
    """
    from storage.backup_file import check_backup  # noqa: PLC0415

    with failures():
        header = check_backup(Path(file)).header
    place, members = _prepared(directory, texts)
    cluster = _new_name(header.cluster, name)
    check_members(cluster, members, DATA_DIR)
    say(
        f"This makes the new cluster {cluster!r} of {header.cluster!r} as of entry {header.index}. "
        "Its jobs begin to run as soon as its nodes are started. If any node of the old cluster "
        "runs, or is started again, every job runs twice."
    )
    _confirm(header.cluster, confirmed=confirmed, flag="--old-cluster-is-gone")
    restored = _restore(Path(file), place, cluster, members)
    _report(place, cluster, members, restored)


@click.command(
    cls=Command,
    examples="""
        cronclave cluster inspect /var/lib/cronclave/n2
        cronclave cluster recover /var/lib/cronclave/n2 --tail keep --dir new \\
            --member n1=10.0.0.1:7901 --member n2=10.0.0.2:7901 --member n3=10.0.0.3:7901
    """,
)
@click.argument("data_dir", metavar="DATA-DIR")
@_new_cluster
@click.option(
    "--tail",
    type=click.Choice(["keep", "drop"]),
    help="What becomes of entries that may or may not have been agreed upon.",
)
@click.option(
    "--yes-i-accept-data-loss", "confirmed", is_flag=True, help="Do not ask; for scripts that know."
)
def recover(
    data_dir: str,
    directory: str,
    name: str | None,
    texts: tuple[str, ...],
    tail: str | None,
    confirmed: bool,
) -> None:
    """Make a new cluster of one surviving node, when a majority is lost FOR GOOD.

    Whatever the lost members had agreed upon and this one has not heard of is lost. Stop
    all nodes, compare the survivors with `cluster inspect`, and use the most advanced one.
    Its data directory is closed afterwards, so that it cannot go on as a member of the old
    cluster; the other survivors must not be started either.
    """
    from node.survivor import open_survivor  # noqa: PLC0415

    environment = SystemEnvironment()
    place, members = _prepared(directory, texts)
    file = place / RECOVERED
    with failures(), open_survivor(Path(data_dir), environment) as survivor:
        old, member = survivor.identity.cluster, survivor.identity.member
        cluster = _new_name(old, name)
        check_members(cluster, members, DATA_DIR)
        say(
            f"RECOVERY: the new cluster {cluster!r} is made of what member {member!r} of {old!r} "
            "has on its disk. What a majority had agreed upon without this member is LOST, and no "
            f"command brings it back. Other members of {old!r} that still exist may go on as a "
            "cluster of their own and run every job a second time: start none of them again, and "
            "erase their data directories."
        )
        decide_tail(survivor, tail)
        _confirm(old, confirmed=confirmed, flag="--yes-i-accept-data-loss")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_survivor(survivor, file, tail, environment)
    try:
        restored = _restore(file, place, cluster, members)
    except BaseException:
        file.unlink()
        raise
    _close(Path(data_dir), cluster)
    _report(place, cluster, members, restored)
    say(f"{data_dir} is closed; the state of which the new cluster is made is in {file}.")


def _prepared(directory: str, texts: Sequence[str]) -> tuple[Path, list[MemberConfig]]:
    """Return where the new cluster goes and its members, before anything is written."""
    place = Path(directory)
    if place.exists() and any(place.iterdir()):
        raise CommandFailed(f"{place} is not empty; choose another --dir.", CONFLICT)
    members = members_of(texts)
    return place, members


def _new_name(old: str, name: str | None) -> str:
    """Return the new cluster's name: not that of the old one, whose members may still exist."""
    if name == old:
        raise CommandFailed(
            f"The new cluster needs a name of its own: by {old!r}, what is left of the old one "
            "could be taken for a part of it.",
            USAGE,
        )
    if name is not None:
        return name
    numbered = _NUMBERED.fullmatch(old)
    return f"{numbered[1]}-r{int(numbered[2]) + 1}" if numbered else f"{old}-r1"


def _confirm(cluster: str, *, confirmed: bool, flag: str) -> None:
    """Let a person type the old cluster's name, unless a script has said that it knows."""
    if confirmed:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"Nothing was done. Without a terminal this needs {flag}.", USAGE)
    typed = click.prompt(f"Type the name of the old cluster ({cluster}) to go on", err=True)
    if typed.strip() != cluster:
        raise CommandFailed("That is another name. Nothing was done.", USAGE)


def _restore(file: Path, place: Path, cluster: str, members: Sequence[MemberConfig]) -> Restored:
    from node.restoration import restore_data  # noqa: PLC0415

    environment = SystemEnvironment()
    names = [member.name for member in members]
    with failures():
        restored = restore_data(file, place, cluster, names, environment)
    make_cluster(place, cluster, members, DATA_DIR, environment)
    return restored


def _close(data_dir: Path, cluster: str) -> None:
    from node.quarantine import close_directory  # noqa: PLC0415

    close_directory(
        data_dir,
        f"The new cluster {cluster!r} was made of this member's state.",
        {"recovered_as": cluster},
        "Start the members of the new cluster, and never this one again.",
    )


def _report(place: Path, cluster: str, members: Sequence[MemberConfig], restored: Restored) -> None:
    closed = restored.closed
    ended = ", ".join(f"{count} {outcome}" for outcome, count in closed.ended.items()) or "none"
    names = ", ".join(member.name for member in members)
    click.echo(str(place / FILE))
    say(
        f"Cluster {cluster!r} begins at entry {closed.meta.applied_index}. Of the runs that were "
        f"live, {closed.queued} went back to the queue; ended: {ended}.\n"
        f"Next: copy {FILE}, certificates/NAME and data/NAME to the machine of each member, and "
        f"start\n  cronclave node --config {FILE} --name NAME      (one of {names})"
    )
