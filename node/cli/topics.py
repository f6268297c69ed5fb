"""`cronclave help TOPIC` and `cronclave version`: what is true of all commands."""

from __future__ import annotations

import click

from node.cli import exits
from node.cli.commands import Command

VARIABLES = """\
  CRONCLAVE_ADDR       nodes to ask, tried in this order: http://127.0.0.1:8901,http://...:8902
  CRONCLAVE_NAMESPACE  namespace of the jobs, instead of "default"
  CRONCLAVE_CONFIG     configuration file of `cronclave node` and `cronclave config`
  CRONCLAVE_<SECTION>__<KEY>  a setting of a node, see `cronclave config example`
  EDITOR, VISUAL       editor of `cronclave job edit`
  NO_COLOR             if it is not empty: no colours"""
FILES = """\
`cronclave job apply -f` reads TOML (.toml), JSON (.json) and YAML (.yaml, .yml, with PyYAML).
A file holds one job, a list of jobs, or jobs under the key "jobs"; YAML may hold several
documents. In TOML:

  [[jobs]]
  name = "report"
  schedule = { cron = "0 3 * * *", timezone = "Europe/Berlin" }
  action = { type = "command", argv = ["make", "report"] }

Times and durations are texts: "2027-01-01T00:00:00Z", "90s". YAML is read without the
surprises of YAML 1.1: 12:30, on and 0123 stay texts."""
SHELLS = """\
Completion, for bash, zsh and fish alike:

  eval "$(_CRONCLAVE_COMPLETE=bash_source cronclave)"
"""
TOPICS = {
    "exit-codes": f"Exit status:\n{exits.epilog()}",
    "environment": f"Environment:\n{VARIABLES}",
    "files": FILES,
    "completion": SHELLS.rstrip(),
}


@click.command("help", cls=Command, examples="cronclave help exit-codes")
@click.argument("topic", required=False, type=click.Choice(list(TOPICS)))
def help_topic(topic: str | None) -> None:
    """Explain exit-codes, environment, files or completion; all of them without a TOPIC."""
    click.echo("\n\n".join([TOPICS[topic]] if topic else TOPICS.values()))


@click.command(cls=Command, examples="cronclave version")
def version() -> None:
    """Print the version of this program."""
    click.echo(f"cronclave {program_version()}")


def program_version() -> str:
    """Return the version that is installed."""
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415
    from importlib.metadata import version as installed  # noqa: PLC0415

    try:
        return installed("cronclave")
    except PackageNotFoundError:
        return "(not installed)"
