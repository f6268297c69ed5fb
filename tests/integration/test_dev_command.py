"""`cronclave dev`: a whole cluster with one command, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli import exits
from node.cli.program import run
from storage.clock import SystemEnvironment
from tests.support.cluster import free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-P", "-m", "node.cli")
STUB = (sys.executable, "-m", "tests.support.stub_dev", "dev")
DEADLINE_S = 240.0


class Dev:
    """One `cronclave dev` under a test's eyes."""

    def __init__(self, words: tuple[str, ...], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env={**os.environ, **environ},
        )  # fmt: skip
        self.said = ""

    def wait_for(self, words: str) -> None:
        """Read what it says until it says this."""
        assert self.process.stderr is not None
        clock = SystemEnvironment()
        until_s = clock.monotonic_s() + DEADLINE_S
        while words not in self.said:
            left_s = until_s - clock.monotonic_s()
            assert left_s > 0, self.said
            assert select.select([self.process.stderr], [], [], left_s)[0], self.said
            chunk = os.read(self.process.stderr.fileno(), 4096)
            assert chunk, self.said
            self.said += chunk.decode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return its exit status once it ends."""
        _, rest = self.process.communicate(timeout=DEADLINE_S)
        self.said += rest.decode()
        return self.process.returncode


Start = Callable[..., Dev]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Start a cluster of stand-ins in a folder of this test; all of it is gone at the end."""
    started = []

    def begin(*words: str, **environ: str) -> Dev:
        dev = Dev(words or (*STUB, str(tmp_path / "dev"), str(port)), environ)
        started.append(dev)
        return dev

    yield begin
    for dev in started:
        if dev.process.poll() is None:
            dev.end()


def nodes(tmp_path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((tmp_path / "dev/dev.json").read_text())
    return entries


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_leaves_no_process_behind(
    start: Start, tmp_path: Path, port: int, number: signal.Signals
) -> None:
    """Ctrl-C, TERM and a closed terminal end all nodes, and say so."""
    dev = start()
    dev.wait_for("Stop with Ctrl-C.")
    entries = nodes(tmp_path)
    assert [entry["name"] for entry in entries] == ["n1", "n2", "n3"]
    assert [entry["url"] for entry in entries] == [
        f"http://127.0.0.1:{port + number}" for number in range(3)
    ]
    assert all(Path(entry["data_dir"]).is_dir() and alive(entry["pid"]) for entry in entries)
    assert dev.end(number) == exits.OK
    assert "All nodes have stopped." in dev.said
    assert not any(alive(entry["pid"]) for entry in entries)
    assert not (tmp_path / "dev/dev.json").exists()


def test_a_node_that_fails_to_start_ends_it_all(start: Start) -> None:
    """With the end of that node's log, and a status that is not zero."""
    dev = start(STUB_BROKEN="n2")
    assert dev.wait() == exits.ERROR
    assert "Node n2 ended with status 1" in dev.said
    assert "n2 is broken on purpose." in dev.said
    assert "All nodes have stopped." in dev.said


def test_a_node_that_is_killed_is_reported_and_the_others_go_on(
    start: Start, tmp_path: Path
) -> None:
    """The command that starts it again is printed as it can be typed."""
    dev = start()
    dev.wait_for("Stop with Ctrl-C.")
    first, second, _ = (entry["pid"] for entry in nodes(tmp_path))
    os.kill(first, signal.SIGKILL)
    dev.wait_for(f"node --config {tmp_path / 'dev/cluster.toml'} --name n1")
    assert "Node n1 was ended by SIGKILL" in dev.said
    assert alive(second)
    assert dev.end() == exits.OK


def test_a_second_request_to_stop_does_not_wait(start: Start, tmp_path: Path) -> None:
    """A node that does not end when asked to is killed."""
    dev = start(STUB_STUBBORN="n3")
    dev.wait_for("Stop with Ctrl-C.")
    dev.process.send_signal(signal.SIGINT)
    dev.wait_for("n1 has stopped")
    dev.wait_for("n2 has stopped")
    assert dev.end(signal.SIGINT) == exits.OK
    assert "n3 was killed" in dev.said


def test_the_same_folder_goes_on_with_the_same_cluster(start: Start, tmp_path: Path) -> None:
    """Ports, certificates and settings stay; another shape is refused."""
    dev = start()
    dev.wait_for("Stop with Ctrl-C.")
    files = sorted((tmp_path / "dev").rglob("*.[tpk][oe][mky]*"))
    before = {file: file.read_bytes() for file in files}
    assert len(before) >= 12
    assert dev.end() == exits.OK
    again = start()
    again.wait_for("Stop with Ctrl-C.")
    assert {file: file.read_bytes() for file in files} == before
    assert again.end() == exits.OK
    data = str(tmp_path / "dev")
    assert run(["dev", "--data", data, "--nodes", "5"]) == exits.USAGE
    assert run(["dev", "--data", data, "--port", "9999"]) == exits.USAGE


def test_a_second_command_on_the_same_folder_is_refused(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first one goes on undisturbed; so is one whose ports are taken."""
    dev = start()
    dev.wait_for("Stop with Ctrl-C.")
    assert run(["dev", "--data", str(tmp_path / "dev")]) == exits.CONFLICT
    assert "Another `cronclave dev`" in capfd.readouterr().err
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "cluster.toml").write_text((tmp_path / "dev/cluster.toml").read_text())
    assert run(["dev", "--data", str(copy)]) == exits.CONFLICT
    assert "is taken by another process" in capfd.readouterr().err
    assert dev.process.poll() is None
    assert len(nodes(tmp_path)) == 3


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    """A cluster is made in an empty folder; a slip of the finger litters no other."""
    (tmp_path / "work.txt").write_text("Mine.")
    assert run(["dev", "--data", str(tmp_path)]) == exits.CONFLICT
    assert [file.name for file in tmp_path.iterdir()] == ["work.txt"]


def shows(capfd: pytest.CaptureFixture[str], words: str, *command: str) -> None:
    """Give a command until it succeeds and says this: a slow machine may hold an election."""
    clock = SystemEnvironment()
    until_s = clock.monotonic_s() + DEADLINE_S
    while True:
        status = run(command)
        said = capfd.readouterr()
        if status == exits.OK and words in said.out:
            return
        assert clock.monotonic_s() < until_s, (command, status, said)
        time.sleep(0.1)


def test_real_nodes_form_a_cluster_with_jobs_to_look_at(
    start: Start,
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From nothing to a cluster that runs jobs, with one command; and again with its data."""
    words = (*PROGRAM, "dev", "--data", str(tmp_path / "dev"), "--port", str(port))
    dev = start(*words)
    dev.wait_for("Stop with Ctrl-C.")
    assert "6 sample jobs were created" in dev.said
    urls = [entry["url"] for entry in nodes(tmp_path)]
    monkeypatch.setenv("CRONCLAVE_ADDR", ",".join(urls))
    shows(capfd, "samples/by-hand\n", "job", "list", "-n", "samples", "-o", "name")
    shows(capfd, "succeeded", "job", "run", "samples/by-hand", "--wait", "--wait-timeout", "50s")
    shows(capfd, "n3\n", "member", "list", "-o", "name")
    assert dev.end() == exits.OK
    again = start(*words, "--no-samples")
    again.wait_for("Stop with Ctrl-C.")
    shows(capfd, '"succeeded"', "job", "history", "samples/by-hand", "-o", "json")
    assert again.end() == exits.OK
