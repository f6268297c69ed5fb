"""Commands that make and check backups: `cluster backup`, `verify-backup`, `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from node.cli.commands import Command
from node.cli.exits import CONFLICT, ERROR, NOT_FOUND, USAGE, CommandFailed
from node.cli.output import FORMS, Printer, say
from node.cli.session import Session, addressed
from node.cli.text import format_ms
from storage.clock import Environment, SystemEnvironment

if TYPE_CHECKING:
    from node.survivor import Survivor
    from storage.backup_file import Backup

TAIL_SHOWN_MAX = 20

Lines = Iterator[tuple[str, str | None]]


@contextmanager
def failures() -> Iterator[None]:
    """Turn what can go wrong with a backup or a data directory into a failure for the user."""
    from consensus.features import LevelUnsupported  # noqa: PLC0415
    from node.boot import DirectoryInUse  # noqa: PLC0415
    from node.quarantine import Quarantined  # noqa: PLC0415
    from storage.invariant import InvariantViolated  # noqa: PLC0415
    from storage.journal_format import DiskFailed, JournalDamaged, JournalMismatch  # noqa: PLC0415
    from storage.snapshot_format import SnapshotError  # noqa: PLC0415

    try:
        yield
    except FileNotFoundError as error:
        raise CommandFailed(f"{error.filename}: it does not exist.", NOT_FOUND) from None
    except FileExistsError as error:
        raise CommandFailed(f"{error.filename}: it exists already.", CONFLICT) from None
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}.") from None
    except (DirectoryInUse, Quarantined) as error:
        raise CommandFailed(str(error), CONFLICT) from None
    except (SnapshotError, LevelUnsupported, DiskFailed, JournalDamaged, JournalMismatch) as error:
        raise CommandFailed(str(error), ERROR) from None
    except InvariantViolated as error:
        raise CommandFailed(f"This state cannot be used: {error}") from None


@click.command(
    cls=Command,
    examples="""
        cronclave cluster backup monday.backup
        cronclave cluster backup --addr http://10.0.0.2:8901 monday.backup
        cronclave cluster backup --data-dir /var/lib/cronclave/n1 --tail keep last.backup
    """,
)
@click.argument("file", metavar="FILE")
@click.option(
    "--data-dir", metavar="DIR", help="Back up the data directory of a node that does not run."
)
@click.option(
    "--tail",
    type=click.Choice(["keep", "drop"]),
    help="With --data-dir: what becomes of entries that may or may not have been agreed upon.",
)
@addressed
def backup(session: Session, /, file: str, data_dir: str | None, tail: str | None) -> None:
    """Write a consistent backup of the whole cluster, jobs, history and output, to FILE.

    Any node can give it, also one without a quorum, which may then not have the latest. The
    file is written under another name and checked before it gets its own; nobody else may
    read it, for it holds whatever the jobs hold.
    """
    if data_dir is not None:
        made = _offline_backup(Path(data_dir), Path(file), tail)
    elif tail is not None:
        raise CommandFailed("--tail goes with --data-dir only.", USAGE)
    else:
        made = _online_backup(session, Path(file))
    show_backup(session.printer, file, made)


def _online_backup(session: Session, file: Path) -> Backup:
    from storage.backup_file import write_backup  # noqa: PLC0415
    from storage.snapshot_format import split_chunks  # noqa: PLC0415

    with failures(), session.client.stream("/v1/cluster/backup") as response:
        stale = response.header("x-cronclave-stale") == "true"
        made = write_backup(file, split_chunks(cast(BinaryIO, response)))
    if stale:
        say(
            "This node has no contact with a majority of the members: the backup is as of "
            f"{format_ms(made.meta.clock_ms)} (entry {made.header.index}), and what the others "
            "may have agreed upon since is not in it."
        )
    return made


def _offline_backup(data_dir: Path, file: Path, tail: str | None) -> Backup:
    from node.survivor import open_survivor  # noqa: PLC0415

    environment = SystemEnvironment()
    with failures(), open_survivor(data_dir, environment) as survivor:
        decide_tail(survivor, tail)
        return write_survivor(survivor, file, tail, environment)


def write_survivor(
    survivor: Survivor, file: Path, tail: str | None, environment: Environment
) -> Backup:
    """Write what a survivor holds to a backup, with its tail if that is to be kept."""
    from storage.backup_file import write_backup  # noqa: PLC0415

    if tail == "keep":
        survivor.keep_tail()
    return write_backup(file, survivor.chunks(environment))


def decide_tail(survivor: Survivor, tail: str | None) -> None:
    """Name the entries whose fate is not known, and ask for a decision about them.

    Raises:
        CommandFailed: there are some, and nobody has decided.
    """
    entries = list(survivor.tail())
    if not entries:
        return
    applied = survivor.meta.applied_index
    say(
        f"Up to entry {applied}, everything was agreed upon. {len(entries)} more entries are in "
        "the journal; they may have been agreed upon, or not:"
    )
    for entry in entries[:TAIL_SHOWN_MAX]:
        say(f"  {entry.index} (term {entry.term}): {entry.content}")
    if len(entries) > TAIL_SHOWN_MAX:
        say(f"  ... and {len(entries) - TAIL_SHOWN_MAX} more, up to {entries[-1].index}")
    if tail is None:
        raise CommandFailed(
            "Decide with --tail: `keep` loses nothing that was acknowledged, and may bring back "
            "what nobody was told of; `drop` is the other way round. `keep` is what an election "
            "won by this member would have done.",
            USAGE,
        )
    say("They are kept." if tail == "keep" else "They are dropped.")


@click.command("verify-backup", cls=Command, examples="cronclave cluster verify-backup my.backup")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table")
def verify(file: str, form: str) -> None:
    """Read a backup from end to end, and say what it is of.

    Every chunk has a checksum, and the end has one over all of them.
    """
    from storage.backup_file import check_backup  # noqa: PLC0415

    with failures():
        found = check_backup(Path(file))
    show_backup(Printer(form, SystemEnvironment()), file, found)


@click.command(cls=Command, examples="cronclave cluster inspect /var/lib/cronclave/n1")
@click.argument("directory", metavar="DIR")
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table")
def inspect(directory: str, form: str) -> None:
    """Say what the data directory of a node holds that does not run.

    To compare survivors: the one with the highest last term, and among those the highest
    last index, is the most advanced.
    """
    from node.survivor import open_survivor  # noqa: PLC0415

    environment = SystemEnvironment()
    with failures(), open_survivor(Path(directory), environment) as survivor:
        found = _inspected(survivor)
    Printer(form, environment).one(found, _lines(found), lambda item: str(item["member"]))


def _inspected(survivor: Survivor) -> dict[str, Any]:
    journal, meta = survivor.journal, survivor.meta
    last = journal.last_index
    last_term = journal.read(last, last, 1)[0][2] if last else 0
    return {
        "cluster": survivor.identity.cluster,
        "member": survivor.identity.member,
        "term": journal.hard_state.term,
        "last_term": last_term,
        "last_index": last,
        "first_index": journal.first_index,
        "applied_index": meta.applied_index,
        "entries_in_doubt": last - meta.applied_index,
        "clock": format_ms(meta.clock_ms),
        "feature_level": survivor.level,
        "state_hash": meta.state_hash.hex(),
    }


def show_backup(printer: Printer, file: str, found: Backup) -> None:
    """Print what a backup is of."""
    header, meta = found.header, found.meta
    shown = {
        "file": file,
        "cluster": header.cluster,
        "index": header.index,
        "term": header.term,
        "clock": format_ms(meta.clock_ms),
        "created": format_ms(header.created_ms),
        "records": found.footer.records,
        "bytes": found.footer.size,
        "sha256": found.footer.sha256.hex(),
        "feature_level": found.level,
        "jobs": meta.counters.get("jobs", 0),
        "runs": meta.counters.get("runs", 0),
        "runs_live": meta.counters.get("runs_live", 0),
    }
    printer.one(shown, _lines(shown), lambda item: str(item["file"]))


def _lines(found: dict[str, Any]) -> Lines:
    for key, value in found.items():
        yield key.replace("_", " ").capitalize(), str(value)
