"""The settings of a node: their names, types, defaults, bounds and the reason to change them.

These records are the one source of the configuration. The reader takes the types and bounds
from them, `cluster.example.toml` is rendered from them, and the node works with them. In a
file a duration is a text with units ("500ms"); here it is whole milliseconds, so that a field
`lease_ms` is the setting `lease`. A `form` names what msgspec cannot tell from the type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
MIB = 1024 * 1024

# Names stand in paths, in certificates and in the log.
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
# All members of a new cluster vote, and a vote is a disk sync; more voters make it slower, not
# safer. Members without a vote join later.
MEMBERS_MAX = 9
PORT_MAX = 65_535

DURATION = {"form": "duration"}
PATH = {"form": "path"}


class MemberConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One member of the cluster, as all the others reach it."""

    name: Annotated[
        str,
        Meta(
            pattern=NAME_PATTERN,
            description="Name of the member, unique in the cluster and part of its certificate.",
            extra={"required": True},
        ),
    ]
    address: Annotated[
        str,
        Meta(
            description="Where the other members reach this one, and where it listens for them.",
            extra={"required": True, "form": "address"},
        ),
    ]
    http_port: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=PORT_MAX,
                description="Port of this member's API where it differs from http.port, for "
                "several members on one machine.",
            ),
        ]
        | None
    ) = None


class ClusterConfig(Struct, frozen=True, kw_only=True):
    """Who belongs together. The same on all members."""

    name: Annotated[
        str,
        Meta(
            pattern=NAME_PATTERN,
            description="Name of the cluster. Members of another name are refused.",
            extra={"required": True},
        ),
    ] = ""
    members: Annotated[
        tuple[MemberConfig, ...],
        Meta(
            description="The first members, each in a [[cluster.members]] table; 3 or 5 survive a "
            "failure of 1 or 2. Read when the cluster begins; later its log says who they are.",
            extra={"required": True, "form": "members"},
        ),
    ] = ()
    joined: Annotated[
        bool,
        Meta(
            description="This member has joined a running cluster with `cronclave cluster join`, "
            "which writes this. It lists itself alone in cluster.members: who else belongs to the "
            "cluster is in its data directory, without which it does not start."
        ),
    ] = False


class NodeConfig(Struct, frozen=True, kw_only=True):
    """This member."""

    name: Annotated[
        str,
        Meta(
            pattern=NAME_PATTERN,
            description="Which member this node is. Usually given with `--name`, so that one file "
            "serves all members. A cluster of one needs no name.",
            extra={"unset": True},
        ),
    ] = ""
    data_dir: Annotated[
        Path,
        Meta(
            description="Where this member keeps its state. Relative to this file; {name} is "
            "replaced by the member's name. The disk must honour fsync.",
            extra=PATH,
        ),
    ] = Path("data/{name}")
    slots: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="How many runs this member carries at once. Lower it where jobs are heavy.",
        ),
    ] = 512
    labels: Annotated[
        dict[str, str],
        Meta(
            max_length=32,
            description="What a job's placement can ask for, such as a region or a kind of disk.",
            extra={"form": "labels"},
        ),
    ] = {}
    disk_low_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024 * 1024 * MIB,
            description="With less than this left on the disk of data_dir, this member takes no "
            "writes and does not lead. Never more than 5 % of the disk.",
        ),
    ] = 512 * MIB
    disk_critical_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024 * 1024 * MIB,
            description="With less than this left it stops in order. Never more than 1.25 % of "
            "the disk.",
        ),
    ] = 128 * MIB
    drain_grace_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=HOUR_MS,
            description="How long runs may go on when this member is told to stop, before they "
            "are stopped and given back. Whatever stops the process must wait for longer.",
            extra=DURATION,
        ),
    ] = field(default=20 * SECOND_MS, name="drain_grace")
    loop: Annotated[
        Literal["uvloop", "asyncio"],
        Meta(
            description="The event loop. asyncio is slower and easier to debug.",
        ),
    ] = "uvloop"


class HttpConfig(Struct, frozen=True, kw_only=True):
    """The API and the dashboard."""

    host: Annotated[
        str,
        Meta(
            description="Where the API listens. There is no authentication yet, so only a loopback "
            "address is accepted.",
            extra={"form": "loopback"},
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=PORT_MAX, description="Port of the API.")] = 8901


class RaftConfig(Struct, frozen=True, kw_only=True):
    """How the members agree. The same on all members."""

    election_min_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=MINUTE_MS,
            description="A member that hears no leader for a random time between this and "
            "election_max asks for votes. At least ten times the slowest usual disk sync.",
            extra=DURATION,
        ),
    ] = field(default=500, name="election_min")
    election_max_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=2 * MINUTE_MS,
            description="See election_min; the wider apart the two, the rarer are split votes.",
            extra=DURATION,
        ),
    ] = field(default=1_000, name="election_max")
    heartbeat_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=20 * SECOND_MS,
            description="How often a leader says that it is alive. Below a third of election_min.",
            extra=DURATION,
        ),
    ] = field(default=100, name="heartbeat")
    journal_tail_entries: Annotated[
        int,
        Meta(
            ge=1_000,
            le=10_000_000,
            description="Log entries kept for members that were away. One that was away for longer "
            "needs a snapshot.",
        ),
    ] = 50_000
    journal_tail_bytes: Annotated[
        int,
        Meta(
            ge=16 * MIB,
            le=64 * 1024 * MIB,
            description="The same in bytes; whichever of the two is reached first counts.",
        ),
    ] = 256 * MIB
    snapshot_bytes_per_s: Annotated[
        int,
        Meta(
            ge=100_000,
            le=10_000_000_000,
            description="How fast a leader sends the state to a member that was away for longer. "
            "Lower it where the disk or the network is needed for other things.",
        ),
    ] = 50_000_000


class SchedulerConfig(Struct, frozen=True, kw_only=True):
    """When runs are claimed, stolen and given up. The same on all members."""

    horizon_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=MINUTE_MS,
            description="How far ahead of its time a run is claimed, so that it starts on time.",
            extra=DURATION,
        ),
    ] = field(default=SECOND_MS, name="horizon")
    steal_after_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=MINUTE_MS,
            description="A run that is overdue by this is started by the next free member.",
            extra=DURATION,
        ),
    ] = field(default=250, name="steal_after")
    lease_ms: Annotated[
        int,
        Meta(
            ge=SECOND_MS,
            le=10 * MINUTE_MS,
            description="A member that was silent for this long is taken for dead, and its runs "
            "are started again elsewhere.",
            extra=DURATION,
        ),
    ] = field(default=5 * SECOND_MS, name="lease")
    heartbeat_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=MINUTE_MS,
            description="How often a member renews its lease. Below a third of it.",
            extra=DURATION,
        ),
    ] = field(default=SECOND_MS, name="heartbeat")
    max_clock_skew_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=MINUTE_MS,
            description="A member whose clock is off by more than this starts nothing.",
            extra=DURATION,
        ),
    ] = field(default=500, name="max_clock_skew")
    output_retention_ms: Annotated[
        int,
        Meta(
            ge=MINUTE_MS,
            le=3_650 * DAY_MS,
            description="How long the output of a run is kept after its end.",
            extra=DURATION,
        ),
    ] = field(default=30 * DAY_MS, name="output_retention")


class TlsConfig(Struct, frozen=True, kw_only=True):
    """How members prove to each other who they are; `cronclave cluster init` makes the files."""

    ca: (
        Annotated[
            Path,
            Meta(description="Certificate of the cluster's own authority (PEM).", extra=PATH),
        ]
        | None
    ) = None
    certificate: (
        Annotated[Path, Meta(description="Certificate of this member (PEM).", extra=PATH)] | None
    ) = None
    key: (
        Annotated[
            Path,
            Meta(
                description="Private key of this member (PEM), readable by its user alone.",
                extra=PATH,
            ),
        ]
        | None
    ) = None
    insecure_loopback: Annotated[
        bool,
        Meta(
            description="Let members talk without certificates. Accepted only if every member's "
            "address is a loopback address: for tests.",
        ),
    ] = False


class Config(Struct, frozen=True, kw_only=True):
    """The effective configuration of one node.

    `origins` says of each setting ("raft.heartbeat") where its value came from. All paths are
    absolute, and `node.name` is the name of one of `cluster.members`.
    """

    cluster: ClusterConfig
    node: NodeConfig
    http: HttpConfig
    raft: RaftConfig
    scheduler: SchedulerConfig
    tls: TlsConfig
    origins: dict[str, str]

    @property
    def member(self) -> MemberConfig:
        """The member that this node is."""
        return next(member for member in self.cluster.members if member.name == self.node.name)


SECTIONS: dict[str, type[Struct]] = {
    "cluster": ClusterConfig,
    "node": NodeConfig,
    "http": HttpConfig,
    "raft": RaftConfig,
    "scheduler": SchedulerConfig,
    "tls": TlsConfig,
}
