"""What settings must be to each other, as a table; each rule is checked once all its values are.

A rule names the settings that it speaks of, so that a value which was refused by itself is
not blamed a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from consensus.configuration import split_address
from node.config.settings import MEMBERS_MAX, Config
from node.config.values import is_loopback


@dataclass(frozen=True, slots=True)
class Rule:
    """A relation between settings: `holds` tells whether it is kept, `detail` what it is."""

    paths: tuple[str, ...]
    holds: Callable[[Config], bool]
    detail: str


RULES = (
    Rule(
        ("raft.election_max", "raft.election_min"),
        lambda config: config.raft.election_min_ms < config.raft.election_max_ms,
        "raft.election_max must be above raft.election_min: without a spread, candidates collide "
        "again and again.",
    ),
    Rule(
        ("raft.heartbeat", "raft.election_min"),
        lambda config: config.raft.heartbeat_ms * 3 < config.raft.election_min_ms,
        "raft.heartbeat must be below a third of raft.election_min, so that two lost heartbeats "
        "cost no leader.",
    ),
    Rule(
        ("node.disk_critical_bytes", "node.disk_low_bytes"),
        lambda config: config.node.disk_critical_bytes <= config.node.disk_low_bytes,
        "node.disk_critical_bytes must not be above node.disk_low_bytes, or a member stops before "
        "it has said that its disk is low.",
    ),
    Rule(
        ("scheduler.heartbeat", "scheduler.lease"),
        lambda config: config.scheduler.heartbeat_ms * 3 < config.scheduler.lease_ms,
        "scheduler.heartbeat must be below a third of scheduler.lease, so that two lost "
        "heartbeats cost no runs.",
    ),
    Rule(
        ("scheduler.lease", "raft.election_max"),
        lambda config: config.scheduler.lease_ms > 2 * config.raft.election_max_ms,
        "scheduler.lease must be above twice raft.election_max, or every change of the leader "
        "ends leases of members that are well.",
    ),
    Rule(
        ("scheduler.steal_after", "scheduler.lease"),
        lambda config: config.scheduler.steal_after_ms < config.scheduler.lease_ms,
        "scheduler.steal_after must be below scheduler.lease: stealing is what bridges the time "
        "until a lease ends.",
    ),
    Rule(
        ("scheduler.max_clock_skew", "scheduler.lease"),
        lambda config: config.scheduler.max_clock_skew_ms * 2 < config.scheduler.lease_ms,
        "scheduler.max_clock_skew must be below half of scheduler.lease, for two members may be "
        "off in opposite directions.",
    ),
)


def broken_rules(config: Config, refused: set[str]) -> Iterator[tuple[str, str]]:
    """Yield setting and sentence of each broken rule that is not about a `refused` setting."""
    for rule in RULES:
        if refused.isdisjoint(rule.paths) and not rule.holds(config):
            yield rule.paths[0], rule.detail
    if "cluster.members" not in refused:
        yield from _members(config)
        if "node.name" not in refused:
            yield from _name(config)
        if refused.isdisjoint({"tls.ca", "tls.certificate", "tls.key", "tls.insecure_loopback"}):
            yield from _tls(config)


def _members(config: Config) -> Iterator[tuple[str, str]]:
    members = config.cluster.members
    if len(members) > MEMBERS_MAX:
        detail = f"A cluster has at most {MEMBERS_MAX} members; {len(members)} are given."
        yield "cluster.members", detail
    for what in ("name", "address"):
        for value, count in Counter(getattr(member, what) for member in members).items():
            if count > 1:
                yield "cluster.members", f'{count} members have the {what} "{value}".'


def _name(config: Config) -> Iterator[tuple[str, str]]:
    names = [member.name for member in config.cluster.members]
    if not config.node.name:
        yield "node.name", f"Say which member this node is, with --name: {', '.join(names)}."
    elif config.node.name not in names:
        detail = f'"{config.node.name}" is not a member of the cluster; members are '
        yield "node.name", f"{detail}{', '.join(names)}."


def _tls(config: Config) -> Iterator[tuple[str, str]]:
    hosts = [(split_address(member.address) or ("", 0))[0] for member in config.cluster.members]
    tls, distant = config.tls, [host for host in hosts if not is_loopback(host)]
    if tls.insecure_loopback and distant:
        yield (
            "tls.insecure_loopback",
            f"Members talk without certificates on loopback addresses only, and {distant[0]} is "
            "none; remove it and give tls.ca, tls.certificate and tls.key.",
        )
    if tls.insecure_loopback:
        return
    for what in ("ca", "certificate", "key"):
        if getattr(tls, what) is None:
            detail = "It is required; `cronclave cluster init` makes it."
            yield f"tls.{what}", detail
