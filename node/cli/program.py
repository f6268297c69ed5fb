"""The tree of commands as data, and the one place where a failure becomes an exit status."""

from __future__ import annotations

from collections.abc import Sequence

import click

from node.cli import exits
from node.cli.commands import Entry, Group
from node.cli.exits import CommandFailed
from node.cli.output import say

NAME = "cronclave"

JOB = Entry(
    "Create, change, start and look at jobs.",
    examples="""
        cronclave job create hello --every 10s -- echo hello
        cronclave job create report --cron '0 3 * * *' --tz Europe/Berlin --http https://host/run
        cronclave job run report --wait
        cronclave job history report
        cronclave job apply -f jobs/
    """,
    commands={
        "create": Entry("Create a job.", "node.cli.job_create:create"),
        "list": Entry("List jobs.", "node.cli.job_read:list_jobs"),
        "get": Entry("Show a job.", "node.cli.job_read:get"),
        "apply": Entry("Create or replace jobs from files.", "node.cli.job_apply:apply"),
        "edit": Entry("Change a job in your editor.", "node.cli.job_edit:edit"),
        "delete": Entry("Delete jobs.", "node.cli.job_change:delete"),
        "pause": Entry("Stop a job from starting by itself.", "node.cli.job_change:pause"),
        "resume": Entry("Let a paused job start again.", "node.cli.job_change:resume"),
        "run": Entry("Start a job now.", "node.cli.job_run:run"),
        "history": Entry("Show what became of each occurrence.", "node.cli.job_read:history"),
        "next": Entry("Show when a job will start.", "node.cli.job_read:next_times"),
    },
)
RUN = Entry(
    "Look at runs, read their output, cancel them.",
    examples="""
        cronclave run list --outcome failed
        cronclave run get RUN
        cronclave run output RUN
    """,
    commands={
        "list": Entry("List runs, the latest first.", "node.cli.run_commands:list_runs"),
        "get": Entry("Show a run with its attempts.", "node.cli.run_commands:get"),
        "output": Entry("Print what a run has printed.", "node.cli.run_commands:output"),
        "cancel": Entry("Cancel a run.", "node.cli.run_commands:cancel"),
    },
)
_BACKUP, _RESTORE = "node.cli.backup_commands", "node.cli.restore_commands"
CLUSTER = Entry(
    "Look at the cluster, change its members, back it up, or prepare a new one.",
    examples="""
        cronclave cluster status
        cronclave cluster token n4 --authority new/authority
        cronclave cluster remove n2
        cronclave cluster backup monday.backup
        cronclave cluster restore monday.backup --dir new --member n1=10.0.0.1:7901
    """,
    commands={
        "status": Entry("Show how a node sees the cluster.", "node.cli.cluster_commands:status"),
        "init": Entry("Make certificates and a cluster.toml.", "node.cli.cluster_init:init"),
        "token": Entry("Let a new member join once.", "node.cli.cluster_token:token"),
        "join": Entry("Join a cluster with a token.", "node.cli.cluster_join:join"),
        "replace": Entry("Put one member in another's place.", "node.cli.cluster_token:replace"),
        "remove": Entry("Remove a member for good.", "node.cli.cluster_members:remove"),
        "promote": Entry("Give a member a vote.", "node.cli.cluster_members:promote"),
        "demote": Entry("Take a member's vote away.", "node.cli.cluster_members:demote"),
        "move": Entry("Say where a member is reached.", "node.cli.cluster_members:move"),
        "backup": Entry("Write all that the cluster holds to a file.", f"{_BACKUP}:backup"),
        "verify-backup": Entry("Check a backup.", f"{_BACKUP}:verify"),
        "restore": Entry("Make a new cluster of a backup.", f"{_RESTORE}:restore"),
        "inspect": Entry("Look at a data directory.", f"{_BACKUP}:inspect"),
        "recover": Entry("Make a new cluster when a majority is lost.", f"{_RESTORE}:recover"),
    },
)
MEMBER = Entry(
    "Look at the members, or take one out of service.",
    commands={
        "list": Entry("List the members.", "node.cli.cluster_commands:list_members"),
        "drain": Entry(
            "Let a member hand over what it has and stop.", "node.cli.member_commands:drain"
        ),
    },
)
CONFIG = Entry(
    "Look at a node's configuration.",
    commands={
        "show": Entry("Print what is in force, and why.", "node.cli.config_commands:show"),
        "example": Entry("Print a file with every setting.", "node.cli.config_commands:example"),
    },
)
ROOT = Entry(
    "A distributed job scheduler without a database, a broker or a special node.",
    examples="""
        cronclave dev                                        # a cluster of three, here and now
        cronclave job create hello --every 10s -- echo hello
        cronclave job list
        cronclave run list --job hello
        cronclave explain '30 2 * * 1-5' --tz Europe/Berlin
    """,
    commands={
        "job": JOB,
        "run": RUN,
        "cluster": CLUSTER,
        "member": MEMBER,
        "explain": Entry("Say what a cron expression means.", "node.cli.explain:explain"),
        "dev": Entry("Run a cluster on this machine.", "node.cli.dev_command:dev"),
        "node": Entry("Run one node of a cluster.", "node.cli.node_command:node"),
        "config": CONFIG,
        "help": Entry("Explain exit statuses, variables, files.", "node.cli.topics:help_topic"),
        "version": Entry("Print the version.", "node.cli.topics:version"),
    },
    epilog=f"Exit status:\n{exits.epilog()}",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; whatever fails is said on stderr."""
    try:
        status = Group(NAME, ROOT).main(list(arguments), NAME, standalone_mode=False)
    except CommandFailed as failure:
        say(f"Error: {failure}")
        return failure.exit_status
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message(), err=True)
        return exits.USAGE
    except click.ClickException as error:
        error.show()
        return exits.USAGE if isinstance(error, click.UsageError) else exits.ERROR
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted.")
        return exits.INTERRUPTED
    return status if isinstance(status, int) else exits.OK
