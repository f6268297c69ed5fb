"""`cronclave job apply`: make the cluster's jobs what files say."""

from __future__ import annotations

from typing import Any

import click

from node.cli.client import segment
from node.cli.commands import Command
from node.cli.documents import Document, read_documents
from node.cli.exits import OK, CommandFailed
from node.cli.output import say
from node.cli.session import NAMESPACE_DEFAULT, Session, addressed

CREATED = 201


@click.command(
    cls=Command,
    examples="""
        cronclave job apply -f report.toml
        cronclave job apply -f jobs/ --dry-run
        generate-jobs | cronclave job apply -f -
    """,
)
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE|DIR|-")
@click.option(
    "--format", "file_format", type=click.Choice(("toml", "json", "yaml")), help="Of the files."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@addressed
def apply(
    session: Session, /, files: tuple[str, ...], file_format: str | None, dry_run: bool
) -> int:
    """Create or replace jobs by their names. See `cronclave help files` for the formats.

    All files are read before the first job is sent. A job that is refused does not keep the
    others from being sent; the exit status is that of the first refusal.
    """
    documents = [document for file in files for document in read_documents(file, file_format)]
    status = OK
    done = []
    for document in documents:
        try:
            done.append(_put(session, document, dry_run=dry_run))
        except CommandFailed as failure:
            say(f"Error: {document.source}, {document.job['name']}: {failure}")
            status = status or failure.exit_status
    if session.printer.form in ("json", "yaml"):
        session.printer.data(done)
    return status


def _put(session: Session, document: Document, *, dry_run: bool) -> dict[str, Any]:
    """Send one job and say what became of it."""
    job = document.job
    namespace = str(job.get("namespace") or session.namespace or NAMESPACE_DEFAULT)
    path = f"/v1/jobs/{segment(namespace)}/{segment(job['name'])}"
    query = [("dry_run", "true")] if dry_run else []
    answer = session.client.put(path, {**job, "namespace": namespace}, query)
    found: dict[str, Any] = answer.json()
    done = "created" if answer.status == CREATED else "replaced"
    if session.printer.form == "name":
        click.echo(f"{namespace}/{job['name']}")
    elif session.printer.form == "table":
        if dry_run:
            changes = ", ".join(found.get("changes") or ()) or "nothing"
            done = f"would {found.get('action')}: {changes}"
        click.echo(f"{namespace}/{job['name']} {done}")
    return found
