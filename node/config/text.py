"""The configuration as text: the example with every setting, and what is in force with origins.

Both are rendered from the same records that the reader judges by, so neither can lag behind.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from api.durations import format_duration
from node.config.schema import Setting, member_settings, section_settings
from node.config.settings import SECTIONS, Config, MemberConfig

COLUMNS = 96
EXAMPLE_MEMBERS = (
    MemberConfig(name="n1", address="10.0.0.1:7901"),
    MemberConfig(name="n2", address="10.0.0.2:7901"),
    MemberConfig(name="n3", address="10.0.0.3:7901"),
)
# What has no default that could be shown stands in the example as it usually looks.
EXAMPLE_VALUES: Mapping[str, object] = {
    "cluster.name": "example",
    "node.name": "n1",
    "tls.ca": Path("certificates/{name}/ca.pem"),
    "tls.certificate": Path("certificates/{name}/member.pem"),
    "tls.key": Path("certificates/{name}/member.key"),
}
INTRODUCTION = """\
Every setting of a Cronclave node, with its default, its bounds and what it is for.

The same file serves all members: each node is started with its own name,
    cronclave node --config cluster.toml --name n1
A setting that is commented out has the value shown. Each can also be given in the
environment, as CRONCLAVE_<SECTION>__<KEY>, and on the command line, as
--set section.key=value; a flag counts more than the environment, the environment more than
this file. A duration is a text with units: "250ms", "5s", "1h30m", "30d".
`cronclave config show --origin` prints what is in force and where it comes from."""


def toml_value(setting: Setting, value: object) -> str:
    """Return a value in the form in which the file takes it."""
    if setting.form == "duration" and isinstance(value, int):
        return json.dumps(format_duration(value))
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_quoted(str(text))}" for key, text in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    # A JSON string is a TOML basic string, except for one character that JSON may leave bare.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _quoted(key)


def render_example() -> str:
    """Return the text of cluster.example.toml."""
    lines = [*_commented(INTRODUCTION.splitlines())]
    for section, kind in SECTIONS.items():
        lines += ["", *_commented(_wrapped(kind.__doc__ or "")), f"[{section}]"]
        for setting in section_settings(section).values():
            if setting.form == "members":
                members = _example_members(setting)
            else:
                lines += ["", *_example_setting(setting)]
        if section == "cluster":
            lines += members
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), COLUMNS - 2)


def _commented(lines: Iterable[str]) -> Iterator[str]:
    return (f"# {line}".rstrip() for line in lines)


def _example_setting(setting: Setting) -> Iterator[str]:
    yield from _commented(_wrapped(setting.description))
    shown = EXAMPLE_VALUES.get(setting.path, setting.default)
    yield from _commented(_wrapped(_bounds(setting)))
    needed = setting.required or (setting.path.startswith("tls.") and setting.default is None)
    yield f"{'' if needed else '# '}{setting.key} = {toml_value(setting, shown)}"


def _bounds(setting: Setting) -> str:
    expected = setting.expected[0].upper() + setting.expected[1:]
    if setting.required:
        return f"{expected}. Required."
    if setting.path in EXAMPLE_VALUES:
        return f"{expected}. No default."
    return f"{expected}. Default: {toml_value(setting, setting.default)}."


def _example_members(setting: Setting) -> Iterator[str]:
    yield from ("", *_commented(_wrapped(setting.description)))
    for item in member_settings().values():
        need = "Required." if item.required else "Optional."
        yield from _commented(_wrapped(f"{item.key}: {item.description} {need}"))
    yield from render_members(EXAMPLE_MEMBERS)


def render_members(members: Iterable[MemberConfig]) -> Iterator[str]:
    """Yield the lines of the [[cluster.members]] tables."""
    for number, member in enumerate(members):
        if number:
            yield ""
        yield "[[cluster.members]]"
        for key, setting in member_settings().items():
            value = getattr(member, setting.field)
            if value is not None:
                yield f"{key} = {toml_value(setting, value)}"


def render_new(
    cluster: str,
    members: Iterable[MemberConfig],
    *,
    data_dir: str,
    certificates: str,
    joined: bool = False,
) -> str:
    """Return the file of a new cluster: what it cannot do without, all else by default.

    `certificates` is the folder that has one of each member's name with its certificates.
    With `joined` it is the file of a member that has joined, which is the only one in it.
    """
    whose = "The file of a member that has joined" if joined else "One file for all members"
    head = f"{whose}; `cronclave config example` shows every setting."
    lines = [f"# {head}", "", "[cluster]", f"name = {_quoted(cluster)}"]
    lines += ["joined = true", ""] if joined else [""]
    lines += [
        *render_members(members),
        "",
        "[node]",
        f"data_dir = {_quoted(data_dir)}",
        "",
        "[tls]",
    ]
    for key in ("ca", "certificate", "key"):
        file = Path(str(EXAMPLE_VALUES[f"tls.{key}"])).name
        lines.append(f"{key} = {_quoted(f'{certificates}/{{name}}/{file}')}")
    return "\n".join(lines) + "\n"


def render_config(config: Config, *, origins: bool) -> str:
    """Return what is in force as a file; with `origins`, where each value came from beside it."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += [f"[{section}]", *_section(config, section, origins=origins), ""]
        if section == "cluster":
            lines += [*render_members(config.cluster.members), ""]
    return "\n".join(lines)


def _section(config: Config, section: str, *, origins: bool) -> Iterator[str]:
    record: msgspec.Struct = getattr(config, section)
    shown = []
    for setting in section_settings(section).values():
        value = getattr(record, setting.field)
        if setting.form != "members" and value is not None:
            line = f"{setting.key} = {toml_value(setting, value)}"
            shown.append((line, config.origins[setting.path]))
        elif origins:
            text = "see below" if setting.form == "members" else "not set"
            shown.append((f"# {setting.key}: {text}", config.origins[setting.path]))
    width = max(len(line) for line, _ in shown)
    for line, origin in shown:
        yield f"{line:{width}}  # {origin}" if origins else line
