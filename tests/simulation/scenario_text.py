"""Scenarios as text: a command, and below it exactly what comes of it.

    nodes 5
    ----
    n1 n2 n3 n4 n5 are up

A file is run from its first line to its last in one simulated cluster, and gives the same
transcript every time. Nothing in it depends on who happens to win an election: `elect`
says who leads. Times and indexes are left out for the same reason; what is shown is what
has to hold. `COMMANDS` has the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from storage.memory_journal import MemoryDisk
from tests.simulation.raft_mutations import mutated
from tests.simulation.raft_oracle import SafetyViolated
from tests.simulation.read_scene import ReadScene

LINE = "----"
PATIENCE_S = 20.0

Command = Callable[..., str]
COMMANDS: list[tuple[re.Pattern[str], Command]] = []


class ScenarioUnreadable(Exception):
    """A line is no command of the language."""


def command(pattern: str) -> Callable[[Command], Command]:
    """Make a method a command; its words in angle brackets are the method's arguments."""
    word = r"(?P<\1>[^ ]+)"
    text = re.sub(r"<(\w+)>(?=$| )", word, pattern)
    text = re.sub(r"<(\w+)\.\.\.>", r"(?P<\1>.+)", text)

    def register(method: Command) -> Command:
        COMMANDS.append((re.compile(text), method))
        return method

    return register


def seconds(text: str) -> float:
    """Return a duration such as 300ms or 30s."""
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) / (1000 if unit == "ms" else 1)


class Scenario:
    """One run of one file; used as a context manager, for it may take fixes out."""

    def __init__(self) -> None:
        self._scene: ReadScene
        self._stack = ExitStack()
        # Who was elected last, and how many leaders there had been by then.
        self._elected = ("nobody", 0)

    def __enter__(self) -> Scenario:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def do(self, line: str) -> str:
        """Carry out a command and return what came of it."""
        for pattern, method in COMMANDS:
            matched = pattern.fullmatch(line)
            if matched:
                try:
                    return method(self, **matched.groupdict())
                except (AssertionError, SafetyViolated) as error:
                    kind = "violated" if isinstance(error, SafetyViolated) else "failed"
                    return f"{kind}: {error}"
        raise ScenarioUnreadable(line)

    # --- The cluster ------------------------------------------------------------------

    @command("nodes <count>")
    def nodes(self, count: str) -> str:
        """Start a cluster."""
        self._scene = ReadScene(int(count))
        self._stack.callback(self._scene.close)
        return f"{' '.join(self._scene.names)} are up"

    @command("without <fix>")
    def without(self, fix: str) -> str:
        """Take a fix out, from here on."""
        self._stack.enter_context(mutated(fix))
        return "from here on as if it had never been fixed"

    @command("advance <time>")
    def advance(self, time: str) -> str:
        """Let time pass."""
        self._scene.rest(seconds(time))
        return self._stopped()

    @command("elect <name>")
    def elect(self, name: str) -> str:
        """Wait until this member leads; whoever does before it hands over."""
        scene = self._scene

        def leads() -> bool:
            for other in scene.lives:
                reaches = other != name and not scene.network.links[other, name].blocked
                if reaches and scene.lives[other].leads:
                    scene.raft(other).transfer_leadership(name)
            return scene.raft(name).is_leader and scene.raft(name).has_quorum_contact

        scene.until(leads, PATIENCE_S)
        self._elected = (name, len(scene.oracle.leaders))
        return f"{name} leads"

    @command("expect leader among <names...>")
    def expect_leader(self, names: str) -> str:
        """Wait until one of them leads."""
        among = names.split()
        self._scene.until(lambda: any(self._leads(name) for name in among), PATIENCE_S)
        return "one of them leads"

    @command("expect no leader at <name>")
    def expect_no_leader(self, name: str) -> str:
        """Wait until this member knows that it does not lead."""
        took_s = self._scene.until(lambda: not self._leads(name), PATIENCE_S)
        longest_s = self._scene.settings.election_max_s + 2 * self._scene.settings.heartbeat_s
        late = "" if took_s <= longest_s else ", later than the longest election timeout"
        return f"{name} does not lead{late}"

    def _leads(self, name: str) -> bool:
        return name in self._scene.lives and self._scene.raft(name).is_leader

    # --- Writing and reading ----------------------------------------------------------

    @command("write <count> to <name>")
    def write(self, count: str, name: str) -> str:
        """Give a member commands, and let a moment pass."""
        scene, before = self._scene, self._scene.oracle.counts["refused"]
        commands = scene.write_to(name, int(count))
        refused = scene.oracle.counts["refused"] - before
        scene.rest(0.3)
        done = sum(one in scene.oracle.acknowledged for one in commands)
        return f"{len(commands) - refused} accepted, {refused} refused, {done} acknowledged"

    @command("write <count> through <name>")
    def write_through(self, count: str, name: str) -> str:
        """Give a member commands as fast as it takes them, until all are acknowledged."""
        commands = self._scene.write_all(name, int(count))
        return f"{len(commands)} acknowledged"

    @command("read at <name>")
    def read(self, name: str) -> str:
        """Read past the log, and compare with what was acknowledged before."""
        last = max(self._scene.oracle.acknowledged.values(), default=0)
        index = self._scene.index_of(name, timeout_s=5.0)
        if index is None:
            return "refused: no leader could prove that it leads"
        return "sees all that was acknowledged" if index >= last else "is an answer of the past"

    @command("state")
    def state(self) -> str:
        """Show each member: what it is, what it has applied, and what its log has beyond."""
        return "\n".join(f"{name}: {self._shown(name)}" for name in self._scene.names)

    def _shown(self, name: str) -> str:
        scene = self._scene
        count = len(scene.remains[name].commands)
        if name not in scene.lives:
            return "down"
        raft = scene.raft(name)
        if name in scene.fatal:
            return f"stopped, {count} commands applied"
        tail = [
            record
            for record in raft._log.read(raft.applied_index + 1, raft.last_index, 1 << 30)
            if len(record[0]) > 1
        ] if raft.last_index > raft.applied_index else []  # fmt: skip
        role = "leader" if raft.is_leader else "follower"
        beyond = f", {len(tail)} more in its log" if tail else ""
        return f"{role}, {count} commands applied{beyond}"

    @command("terms")
    def terms(self) -> str:
        """Tell whether all are in one term, and whether somebody else led since `elect`."""
        scene = self._scene
        terms = {scene.raft(name).term for name in scene.lives}
        name, count = self._elected
        changes = len(scene.oracle.leaders) - count
        return (
            f"{'one term' if len(terms) == 1 else 'several terms'}, "
            f"{'a' if changes else 'no'} new leader since {name} was elected"
        )

    @command("agree")
    def agree(self) -> str:
        """Wait until all that are up have applied the same, and compare."""
        self._scene.agree()
        applied = len(self._scene.remains[next(iter(self._scene.lives))].commands)
        acknowledged = len(self._scene.oracle.acknowledged)
        return (
            f"{len(self._scene.lives)} members agree on {applied} commands, "
            f"{acknowledged} were acknowledged{self._faults()}"
        )

    def _faults(self) -> str:
        return "".join(
            f"\n{name} stopped: {_without_numbers(str(error))[:90]}"
            for name, error in sorted(self._scene.fatal.items())
        )

    def _stopped(self) -> str:
        return "nobody stopped" if not self._scene.fatal else self._faults().strip()

    # --- Harm -------------------------------------------------------------------------

    @command("isolate <name>")
    def isolate(self, name: str) -> str:
        """Cut a member off from all others."""
        self._scene.isolate(name)
        return f"{name} is cut off"

    @command("block <sender> to <receiver>")
    def block(self, sender: str, receiver: str) -> str:
        """Let nothing through in this direction."""
        self._scene.network.block(sender, receiver)
        return f"{receiver} hears nothing of {sender}"

    @command("slow <sender> to <receiver> by <time>")
    def slow(self, sender: str, receiver: str, time: str) -> str:
        """Let everything take longer in this direction."""
        self._scene.network.links[sender, receiver].latency_s = seconds(time)
        return f"what {sender} says reaches {receiver} late"

    @command("heal")
    def heal(self) -> str:
        """Repair all links."""
        self._scene.network.heal()
        return "all links are good"

    @command("disk of <name> takes <time>")
    def disk(self, name: str, time: str) -> str:
        """Let a member's disk take so long for each transaction."""
        self._scene.remains[name].sync_s = (seconds(time), seconds(time))
        return f"the disk of {name} takes {time}"

    @command("kill <names...>")
    def kill(self, names: str) -> str:
        """End processes; what they wrote stays."""
        return self._end(names, power_loss=False)

    @command("power loss <names...>")
    def power_loss(self, names: str) -> str:
        """End machines; what was not synced is gone."""
        return self._end(names, power_loss=True)

    def _end(self, names: str, *, power_loss: bool) -> str:
        for name in names.split():
            self._scene.kill(name, power_loss=power_loss)
        return f"{names} down"

    @command("start <names...>")
    def start(self, names: str) -> str:
        """Start processes on what is left."""
        for name in names.split():
            self._scene.start(name)
        return f"{names} up"

    @command("pause <name> for <time>")
    def pause(self, name: str, time: str) -> str:
        """Stop a process as by SIGSTOP; what reaches it waits."""
        self._scene.lives[name].pause(seconds(time))
        return f"{name} does nothing for {time}"

    @command("wipe <name>")
    def wipe(self, name: str) -> str:
        """Put an empty disk under a member that is down."""
        remains = self._scene.remains[name]
        remains.disk = MemoryDisk(b"another".ljust(16, b"."))
        remains.state, remains.flushed = [], 0
        return f"{name} has forgotten everything"

    @command("transfer <name> to <target>")
    def transfer(self, name: str, target: str) -> str:
        """Ask a leader to hand over."""
        self._scene.raft(name).transfer_leadership(target)
        return f"{name} hands over to {target}"

    @command("write at once to <name>")
    def write_at_once(self, name: str) -> str:
        """Give a member a command before anything else happens."""
        before = self._scene.oracle.counts["refused"]
        self._scene.write_to(name)
        return "accepted" if self._scene.oracle.counts["refused"] == before else "refused"


def transcript(text: str) -> str:
    """Run a scenario and return its text with what came of each command.

    Raises:
        ScenarioUnreadable: a line is no command.
    """
    with Scenario() as scenario:
        return "".join(_told(scenario, line) for line in _script(text)).rstrip("\n") + "\n"


def _told(scenario: Scenario, line: str) -> str:
    if not line or line.startswith("#"):
        return f"{line}\n"
    return f"{line}\n{LINE}\n{scenario.do(line)}\n"


def _script(text: str) -> Iterator[str]:
    """Yield comments, empty lines and commands; what was expected is left out."""
    expected = False
    for line in text.splitlines():
        if line == LINE:
            expected = True
        elif not line:
            expected = False
        if not expected:
            yield line


def _without_numbers(text: str) -> str:
    """Leave out indexes and bytes, which any change of the timing changes."""
    return re.sub(r"b'[^']*'|[0-9]{2,}", "…", text)
