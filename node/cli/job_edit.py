"""`cronclave job edit`: change a job in an editor, and not over somebody else's change."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from node.cli.commands import Command
from node.cli.documents import read_documents
from node.cli.exits import CommandFailed
from node.cli.job_read import DEFINED
from node.cli.output import NO_YAML, say, yaml_text
from node.cli.session import Session, addressed

EDITOR = "vi"


@click.command(
    cls=Command,
    examples="""
        cronclave job edit report
        EDITOR='code --wait' cronclave job edit billing/report
    """,
)
@click.argument("job")
@addressed
def edit(session: Session, /, job: str) -> None:
    """Open JOB in $VISUAL or $EDITOR, as YAML or else JSON, and store what you save.

    If somebody has changed the job meanwhile, nothing is stored and your text is kept.
    """
    path = session.job_path(job)
    answer = session.client.get(path, [("consistency", "linearizable")])
    found = answer.json()
    before = {field: found[field] for field in DEFINED if field in found}
    file = _written(before)
    _run_editor(file)
    try:
        after = next(iter(read_documents(str(file), None))).job
        if after == before:
            file.unlink()
            say("Nothing was changed.")
            return
        session.client.put(path, after, match=answer.headers.get("etag"))
    except (CommandFailed, StopIteration) as failure:
        status = failure.exit_status if isinstance(failure, CommandFailed) else 1
        reason = str(failure) or "The file is empty; nothing was stored."
        raise CommandFailed(f"{reason}\nYour text is kept in {file}.", status) from None
    file.unlink()
    click.echo(f"{job} changed")


def _written(job: dict[str, Any]) -> Path:
    """Write the job to a new file that only this user can read."""
    try:
        text, suffix = yaml_text(job), ".yaml"
    except CommandFailed as failure:
        if str(failure) != NO_YAML:
            raise
        text, suffix = json.dumps(job, indent=2, ensure_ascii=False) + "\n", ".json"
    descriptor, name = tempfile.mkstemp(prefix="cronclave-", suffix=suffix)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def _run_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or EDITOR
    try:
        ended = subprocess.run([*shlex.split(editor), str(file)], check=False)
    except (OSError, ValueError) as error:
        file.unlink()
        raise CommandFailed(f"The editor {editor!r} cannot be started: {error}.") from None
    if ended.returncode != 0:
        file.unlink()
        raise CommandFailed(f"The editor ended with status {ended.returncode}; nothing was stored.")
