"""The configuration: layers, bounds, relations, and the example that shows them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from node.config import Config, ConfigRefused, load_config, missing_files
from node.config.schema import section_settings
from node.config.settings import SECTIONS, MemberConfig
from node.config.text import render_config, render_example, toml_value

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """
[cluster]
name = "c"
[[cluster.members]]
name = "n1"
address = "127.0.0.1:7901"
[tls]
insecure_loopback = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(MINIMAL)
    return path


def faults(path: Path | None, **settings: str) -> dict[str, str]:
    """Return what is refused, as sentences by setting."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    with pytest.raises(ConfigRefused) as caught:
        load_config(path, {}, overrides)
    return {fault.path: fault.detail for fault in caught.value.faults}


def test_a_small_file_is_enough(file: Path) -> None:
    """What it does not say has defaults; a cluster of one needs no name of a node."""
    config = load_config(file, {}, {})
    assert config.node.name == "n1"
    assert config.node.data_dir == file.parent / "data/n1"
    assert config.scheduler.lease_ms == 5_000
    assert config.member == MemberConfig(name="n1", address="127.0.0.1:7901")


def test_flags_count_more_than_the_environment_and_that_more_than_the_file(file: Path) -> None:
    """And each value says where it came from."""
    file.write_text(MINIMAL + '[raft]\nheartbeat = "90ms"\nelection_min = "600ms"\n')
    environment = {
        "CRONCLAVE_RAFT__HEARTBEAT": "80ms",
        "CRONCLAVE_NODE__SLOTS": "7",
        "CRONCLAVE_ADDR": "x",
    }
    config = load_config(file, environment, {"raft.heartbeat": "70ms"})
    assert config.raft.heartbeat_ms == 70
    assert config.raft.election_min_ms == 600
    assert config.node.slots == 7
    origins = config.origins
    assert origins["raft.heartbeat"] == "flag"
    assert origins["raft.election_min"] == str(file)
    assert origins["node.slots"] == "CRONCLAVE_NODE__SLOTS"
    assert origins["scheduler.lease"] == "default"


def test_a_bad_value_does_no_harm_where_another_replaces_it(file: Path) -> None:
    """Only what counts is judged."""
    file.write_text(MINIMAL + "[node]\nslots = 0\n")
    assert load_config(file, {}, {"node.slots": "5"}).node.slots == 5


def test_the_environment_alone_is_enough() -> None:
    """A container needs no file."""
    environment = {
        "CRONCLAVE_CLUSTER__NAME": "c",
        "CRONCLAVE_CLUSTER__MEMBERS": "n1=127.0.0.1:1,n2=[::1]:2",
        "CRONCLAVE_NODE__NAME": "n2",
        "CRONCLAVE_NODE__LABELS": "region=eu,disk=ssd",
        "CRONCLAVE_TLS__INSECURE_LOOPBACK": "true",
    }
    config = load_config(None, environment, {})
    assert [member.name for member in config.cluster.members] == ["n1", "n2"]
    assert config.member.address == "[::1]:2"
    assert config.node.labels == {"region": "eu", "disk": "ssd"}
    assert config.node.data_dir == Path.cwd() / "data/n2"


def test_everything_that_is_wrong_is_said_at_once(file: Path) -> None:
    """With the setting, where the value came from, the bounds and a sentence."""
    file.write_text(
        """
        http = 3
        [cluster]
        nam = "x"
        [[cluster.members]]
        name = "n/1"
        address = "nowhere"
        port = 5
        [raft]
        heartbeat = 5
        election_min = "10h"
        [node]
        slots = 0
        loop = "fast"
        labels = { a = 1 }
        [scheduler]
        lease = "2500ms"
        [tls]
        insecure_loopback = "yes"
        [schedule]
        x = 1
        """
    )
    with pytest.raises(ConfigRefused) as caught:
        load_config(file, {"CRONCLAVE_RAFT__HARTBEAT": "1s"}, {"http.port": "70000"})
    found = {fault.path: fault for fault in caught.value.faults}
    assert set(found) == {
        "http", "cluster.nam", "cluster.name", "cluster.members[0].name",
        "cluster.members[0].address", "cluster.members[0].port", "raft.heartbeat",
        "raft.election_min", "raft.hartbeat", "node.slots", "node.loop", "node.labels",
        "scheduler.heartbeat", "tls.insecure_loopback", "schedule", "http.port",
    }  # fmt: skip
    assert "from 1 to 65535" in found["http.port"].detail
    assert found["http.port"].origin == "flag"
    assert found["raft.hartbeat"].origin == "CRONCLAVE_RAFT__HARTBEAT"
    assert 'Did you mean "raft.heartbeat"?' in found["raft.hartbeat"].detail
    assert 'from "50ms" to "1m"' in found["raft.election_min"].detail
    assert found["node.slots"].origin == str(file)
    assert str(caught.value).count("\n") == len(found) - 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("raft__election_max", "500ms"),
        ("raft__heartbeat", "200ms"),
        ("scheduler__heartbeat", "2s"),
        ("scheduler__lease", "2s"),
        ("scheduler__steal_after", "6s"),
        ("scheduler__max_clock_skew", "3s"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    file: Path, setting: str, value: str
) -> None:
    """Each is within its own bounds, and together they would not work."""
    assert any(" must be " in detail for detail in faults(file, **{setting: value}).values())


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org", ""])
def test_the_api_listens_on_loopback_only(file: Path, host: str) -> None:
    """There is no authentication yet; the refusal says so."""
    detail = faults(file, http__host=host)["http.host"]
    assert detail.startswith("http.host must be a loopback address")
    assert "no authentication" in detail


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_every_loopback_address_is_accepted(file: Path, host: str) -> None:
    """Whatever cannot be reached from another machine."""
    assert load_config(file, {}, {"http.host": host}).http.host == host


def test_members_without_certificates_stay_on_loopback(tmp_path: Path) -> None:
    """insecure_loopback is for tests, and nobody can forget it in production."""
    file = tmp_path / "cluster.toml"
    file.write_text(MINIMAL.replace("127.0.0.1", "10.0.0.1"))
    assert "tls.insecure_loopback" in faults(file)
    file.write_text(MINIMAL.replace("insecure_loopback = true", ""))
    assert set(faults(file)) == {"tls.ca", "tls.certificate", "tls.key"}


def test_a_node_is_one_of_the_members(file: Path) -> None:
    """And members have names and addresses of their own."""
    assert "n1" in faults(file, node__name="n9")["node.name"]
    twice = {"cluster__members": "n1=127.0.0.1:1,n2=127.0.0.1:1", "node__name": "n1"}
    assert "2 members have the address" in faults(file, **twice)["cluster.members"]
    two = faults(file, cluster__members="n1=127.0.0.1:1,n2=127.0.0.1:2")
    assert "--name" in two["node.name"]


def test_one_file_serves_several_members_on_one_machine(file: Path) -> None:
    """Each has its own port and paths; a flag still counts more than the file."""
    file.write_text(
        MINIMAL.replace("[tls]", '[[cluster.members]]\nname = "n2"\naddress = "127.0.0.1:7902"\n'
        'http_port = 8902\n[node]\ndata_dir = "{name}/state"\n[tls]')
    )  # fmt: skip
    first, second = (load_config(file, {}, {"node.name": name}) for name in ("n1", "n2"))
    assert (first.http.port, second.http.port) == (8901, 8902)
    assert second.node.data_dir == file.parent / "n2/state"
    assert second.origins["http.port"] == "cluster.members"
    assert load_config(file, {}, {"node.name": "n2", "http.port": "9000"}).http.port == 9000


def test_relative_paths_start_where_they_were_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the file beside it, those of a flag where the user stands."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file.write_text(MINIMAL + '[node]\ndata_dir = "state"\n')
    assert load_config(file, {}, {}).node.data_dir == tmp_path / "state"
    assert load_config(file, {}, {"node.data_dir": "x"}).node.data_dir == elsewhere / "x"


@pytest.mark.parametrize("content", [b"[cluster", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_refused_by_name(file: Path, content: bytes) -> None:
    """Broken TOML, other encodings and missing files alike."""
    file.write_bytes(content)
    assert str(file) in faults(file)
    assert "No such file" in faults(file.parent / "none.toml")[str(file.parent / "none.toml")]


def test_certificates_that_are_not_there_are_named(file: Path) -> None:
    """Each of them, with the setting that names it."""
    file.write_text(
        MINIMAL.replace("insecure_loopback = true", 'ca = "a"\ncertificate = "b"\nkey = "c"')
    )
    found = missing_files(load_config(file, {}, {}))
    assert [fault.path for fault in found] == ["tls.ca", "tls.certificate", "tls.key"]


def test_the_example_file_is_what_the_settings_say() -> None:
    """cluster.example.toml cannot lag behind the program."""
    assert (ROOT / "cluster.example.toml").read_text() == render_example()


def test_the_example_has_every_setting_with_its_default() -> None:
    """Uncommented, the example is accepted and changes nothing."""
    example = render_example()
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in example.splitlines()
    ]
    document = tomllib.loads("\n".join(line for line in lines if "--set" not in line))
    for section in SECTIONS:
        settings = section_settings(section)
        assert set(document[section]) == set(settings)
        for setting in settings.values():
            if setting.default in (None, "", ()) or setting.form == "members":
                continue
            assert (
                document[section][setting.key]
                == tomllib.loads(f"x = {toml_value(setting, setting.default)}")["x"]
            )
            assert setting.description in " ".join(example.replace("\n# ", " ").split())


def test_what_is_in_force_can_be_read_again(file: Path) -> None:
    """`config show` prints a file that means the same."""
    before = load_config(file, {}, {"node.labels": 'a b="x",region=eu', "raft.heartbeat": "50ms"})
    shown = file.parent / "shown.toml"
    shown.write_text(render_config(before, origins=True))
    after = load_config(shown, {}, {})
    for section in SECTIONS:
        assert getattr(after, section) == getattr(before, section)


def test_origins_stand_beside_the_values(file: Path) -> None:
    """Who looks for the reason of a value finds it in its line."""
    config: Config = load_config(file, {"CRONCLAVE_NODE__SLOTS": "7"}, {})
    lines = render_config(config, origins=True).splitlines()
    assert any(line.split() == ["slots", "=", "7", "#", "CRONCLAVE_NODE__SLOTS"] for line in lines)
