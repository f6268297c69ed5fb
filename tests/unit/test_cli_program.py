"""The program as a whole: help, speed, signals, and what needs no cluster."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from node.cli import exits
from node.cli.commands import Group
from node.cli.program import NAME, ROOT, run
from node.cli.text import duration_between, format_ms, relative, span
from storage.clock import SystemEnvironment
from tests.support.stub_api import Asked, Reply, stub_api

HEAVY = {"aiohttp", "asyncio", "cryptography", "lmdb", "msgspec", "rich", "uvloop", "yaml"}
PROGRAM = (sys.executable, "-P", "-m", "node.cli")
# Far more than a program takes to start; reached only when something is broken.
DEADLINE_S = 120.0


def command_lines() -> list[list[str]]:
    """Return every command there is, as its words."""
    found = []
    for name, entry in ROOT.commands.items():
        found += [[name, inner] for inner in entry.commands] or [[name]]
    return found


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_help_begins_with_examples_or_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command can be loaded, and shows how it is called before it explains."""
    assert run([*words, "--help"]) == exits.OK
    shown = capsys.readouterr().out
    assert shown.startswith("Examples:\n  ")
    assert f"Usage: {NAME} {' '.join(words)}" in shown


def test_a_client_command_loads_nothing_heavy() -> None:
    """A command answers at once because it does not load the server that it talks to."""
    with stub_api() as api:
        api.on("GET", "/v1/jobs", Reply(document={"items": [], "next_cursor": None}))
        code = (
            "import sys\nfrom node.cli.program import run\n"
            f"status = run(['job', 'list', '--addr', '{api.url}'])\n"
            "print(status, *sorted({name.partition('.')[0] for name in sys.modules}))\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    status, *modules = ended.stdout.split()
    assert status == "0"
    assert not HEAVY & set(modules)
    assert not {"api", "consensus"} & set(modules)


def test_the_console_entry_imports_nothing_by_itself() -> None:
    """Loading the package costs nothing, whoever does it."""
    code = (
        "import sys; before = set(sys.modules); import node.cli; print(*set(sys.modules) - before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ended.stdout.split()) <= {"node", "node.cli", "__future__"}


def test_ctrl_c_has_its_own_status() -> None:
    """Whoever interrupts a command is not told that it failed."""
    asked, done = Event(), Event()

    def hang(_: Asked) -> Reply:
        asked.set()
        done.wait(DEADLINE_S)
        return Reply(document={"items": []})

    with stub_api() as api:
        api.do("GET", "/v1/jobs", hang)
        process = subprocess.Popen(
            [*PROGRAM, "job", "list", "--addr", api.url], stderr=subprocess.PIPE
        )
        try:
            assert asked.wait(DEADLINE_S)
            process.send_signal(signal.SIGINT)
            _, message = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            done.set()
    assert process.returncode == exits.INTERRUPTED
    assert message.strip() == b"Interrupted."


def test_a_reader_that_leaves_early_gets_no_complaints() -> None:
    """`cronclave ... | head` ends without a word."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [*PROGRAM, "help"], stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert ended.returncode == exits.ERROR
    assert ended.stderr == b""


@pytest.mark.parametrize("words", [["job", "lst"], ["jobs"], ["job", "list", "--no-such"]])
def test_a_mistyped_command_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is two, and what was probably meant is named."""
    assert run(words) == exits.USAGE
    assert "Error:" in capsys.readouterr().err


def test_every_exit_status_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` and `help exit-codes` have the same table."""
    run(["help", "exit-codes"])
    table = capsys.readouterr().out
    run(["--help"])
    assert table.strip() in capsys.readouterr().out
    for status, _ in exits.MEANINGS:
        assert f"{status:>3}  " in table


def test_the_tree_of_commands_is_complete() -> None:
    """Completion and help find every command that the table names."""
    group = Group(NAME, ROOT)
    context = group.make_context(NAME, ["help"], resilient_parsing=True)
    for name in group.list_commands(context):
        assert group.get_command(context, name) is not None


def test_explain_needs_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """A cron expression is put into words, with its next times, where nobody is asked."""
    assert run(["explain", "30 2 * * 1-5", "--tz", "Europe/Berlin", "--count", "3"]) == exits.OK
    lines = capsys.readouterr().out.splitlines()
    assert "02:30" in lines[0]
    assert len(lines) == 5
    assert run(["explain", "0 3 * * *", "-o", "json"]) == exits.OK
    document = json.loads(capsys.readouterr().out)
    assert document["expression"] == "0 3 * * *"
    assert len(document["next"]) == 5


def test_explain_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A bad expression and a bad zone are both named."""
    assert run(["explain", "0 25 * * *", "--tz", "Europe/Nowhere"]) == exits.ERROR
    message = capsys.readouterr().err
    assert "25" in message
    assert "Europe/Nowhere" in message


def test_a_terminal_gets_relative_times_and_colours() -> None:
    """On a terminal the distance says more than the time; NO_COLOR takes the colours away."""
    items = [{"kind": "run", "id": "r", "outcome": "failed", "scheduled_at": _in_an_hour()}]
    with stub_api() as api:
        api.on("GET", "/v1/runs", Reply(document={"items": items, "next_cursor": None}))
        arguments = (*PROGRAM, "run", "list", "--addr", api.url)
        shown = on_terminal(arguments, {})
        assert "in 59m" in shown
        assert "\x1b[31mfailed\x1b[0m" in shown
        assert "\x1b" not in on_terminal(arguments, {"NO_COLOR": "1"})


def _in_an_hour() -> str:
    return format_ms(SystemEnvironment().wall_ms() + 3_599_000)


def on_terminal(arguments: tuple[str, ...], environ: dict[str, str]) -> str:
    """Return what a program prints on a terminal."""
    controller, terminal = os.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(arguments, stdout=terminal, env={**inherited, **environ})
    os.close(terminal)
    shown = b""
    try:
        while select.select([controller], [], [], DEADLINE_S)[0]:
            try:
                chunk = os.read(controller, 4096)
            except OSError:
                break  # the terminal has no writer any more
            if not chunk:
                break
            shown += chunk
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    return shown.decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T10:00:00.000Z", "now"),
        ("2026-11-24T10:05:30.000Z", "in 5m30s"),
        ("2026-11-24T08:00:00Z", "2h ago"),
        ("2026-11-21T09:00:00Z", "3d1h ago"),
        ("2027-11-21T09:00:00Z", "2027-11-21"),
        (None, "-"),
        ("no time", "no time"),
    ],
)
def test_times_near_now_are_told_by_their_distance(text: str | None, expected: str) -> None:
    """Far ones by their date, and what is no time as it is."""
    assert relative(text, 1_795_514_400_000) == expected


def test_spans_have_their_two_largest_units() -> None:
    """More would be precision that nobody reads."""
    assert [span(seconds) for seconds in (0, 59, 60, 3_661, 86_400, 90_061)] == [
        "0s", "59s", "1m", "1h1m", "1d", "1d1h",
    ]  # fmt: skip
    assert duration_between("2026-11-24T10:00:00.000Z", "2026-11-24T10:00:00.250Z") == "250ms"
    assert duration_between("2026-11-24T10:00:00.000Z", None) == "-"


def test_cluster_init_makes_what_nodes_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is accepted by a node, and the certificates that it names are there."""
    place = tmp_path / "new"
    members = ["--member", "n1=10.0.0.1:7901", "--member", "n2=10.0.0.1:7902"]
    assert run(["cluster", "init", "--dir", str(place), "--name", "prod", *members]) == exits.OK
    file = capsys.readouterr().out.strip()
    assert file == str(place / "cluster.toml")
    assert run(["config", "show", "--config", file, "--name", "n2", "--origin"]) == exits.OK
    shown = capsys.readouterr().out
    assert "port = 8902" in shown
    assert f'certificate = "{place}/certificates/n2/member.pem"' in shown
    for name in ("ca.pem", "member.pem", "member.key"):
        assert (place / "certificates/n2" / name).is_file()
    assert run(["cluster", "init", "--dir", str(place), *members]) == exits.CONFLICT


@pytest.mark.parametrize("member", ["n1", "n1=host", "n1=host:0", "n/1=host:1"])
def test_cluster_init_refuses_what_no_node_would_accept(tmp_path: Path, member: str) -> None:
    """Nothing is written then."""
    assert run(["cluster", "init", "--dir", str(tmp_path / "x"), "--member", member]) == exits.USAGE
    assert not (tmp_path / "x").exists()


def test_a_node_without_its_certificates_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every missing file is named before anything is started."""
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[cluster]\nname = "c"\n[[cluster.members]]\nname = "n1"\naddress = "10.0.0.1:1"\n'
        '[tls]\nca = "ca.pem"\ncertificate = "n1.pem"\nkey = "n1.key"\n'
    )
    assert run(["node", "--config", str(file)]) == exits.ERROR
    message = capsys.readouterr().err
    for name in ("ca.pem", "n1.pem", "n1.key"):
        assert str(tmp_path / name) in message


def test_a_refused_configuration_is_a_list_of_sentences(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of them, and a hint when no file was given."""
    assert run(["config", "show", "--set", "raft.heartbeat=1", "--port", "0"]) == exits.ERROR
    message = capsys.readouterr().err
    for setting in ("cluster.name", "cluster.members", "raft.heartbeat", "http.port"):
        assert f"\n{setting}" in message
    assert "--config FILE" in message


def test_the_example_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the source is not at hand."""
    assert run(["config", "example"]) == exits.OK
    assert "[[cluster.members]]" in capsys.readouterr().out


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """For whoever reports a fault."""
    assert run(["version"]) == exits.OK
    assert capsys.readouterr().out.startswith("cronclave ")
