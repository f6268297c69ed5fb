"""From a file, the environment and flags to one configuration, or to all that is wrong with it.

The layers are laid over each other before anything is judged, so that a bad value in a file
does no harm where a flag replaces it. Every fault names the setting and where its value came
from, and all of them are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from api.faults import Rejected, shown
from node.config.checks import broken_rules
from node.config.schema import Setting, member_settings, section_settings
from node.config.settings import SECTIONS, Config, MemberConfig
from node.config.values import parse_value

ENVIRONMENT_PREFIX = "CRONCLAVE_"
ENVIRONMENT_SEPARATOR = "__"
DEFAULT = "default"
FLAG = "flag"
# Where the port of the member's own table stands in for the one of all members.
MEMBER_TABLE = "cluster.members"


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing that is wrong: the setting, where its value came from, and a sentence."""

    path: str
    origin: str
    detail: str

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.origin}): {self.detail}"
            if self.origin
            else (f"{self.path}: {self.detail}")
        )


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given. `text` tells that it has no type of its own."""

    raw: object
    origin: str
    base: Path
    text: bool = False


class Reader:
    """Collects what is given for each setting, then judges all of it once.

    Defaults that are relative paths start from `base`.
    """

    def __init__(self, base: Path) -> None:
        self.faults: list[ConfigFault] = []
        self._base = base
        self._given: dict[str, Given] = {}

    def add_file(self, document: Mapping[str, Any], origin: str) -> None:
        """Take a parsed TOML document; its relative paths start from `base`."""
        for section, table in document.items():
            if not isinstance(table, dict):
                detail = f"At the top of the file stand sections such as [{next(iter(SECTIONS))}]."
                self.faults.append(ConfigFault(section, origin, detail))
                continue
            if section not in SECTIONS:
                self._unknown(section, SECTIONS, origin)
                continue
            for key, raw in table.items():
                self._add(f"{section}.{key}", Given(raw, origin, self._base))

    def add_environment(self, environment: Mapping[str, str], base: Path) -> None:
        """Take the variables of the form CRONCLAVE_SECTION__KEY; others mean other things."""
        for name, raw in sorted(environment.items()):
            if name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name:
                path = name.removeprefix(ENVIRONMENT_PREFIX).lower()
                path = path.replace(ENVIRONMENT_SEPARATOR, ".", 1)
                self._add(path, Given(raw, name, base, text=True))

    def add_overrides(self, overrides: Mapping[str, str], base: Path) -> None:
        """Take the values of flags, by the path of their setting."""
        for path, raw in overrides.items():
            self._add(path, Given(raw, FLAG, base, text=True))

    def _add(self, path: str, given: Given) -> None:
        section, _, key = path.partition(".")
        if section not in SECTIONS:
            self._unknown(section, SECTIONS, given.origin)
        elif key not in section_settings(section):
            self._unknown(key, section_settings(section), given.origin, f"{section}.")
        else:
            self._given[path] = given

    def _unknown(
        self, key: str, known: Mapping[str, object], origin: str, prefix: str = ""
    ) -> None:
        meant = get_close_matches(key[:64], known, n=1)
        hint = f'Did you mean "{prefix}{meant[0]}"?' if meant else f"Known: {', '.join(known)}."
        kind = "setting" if prefix else "section"
        fault = ConfigFault(f"{prefix}{key}", origin, f"There is no such {kind}. {hint}")
        if fault not in self.faults:
            self.faults.append(fault)

    def finish(self) -> Config | None:
        """Return the configuration, or None when `faults` says why there is none."""
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for section in SECTIONS:
            for setting in section_settings(section).values():
                values[setting.path] = self._value(setting)
                given = self._given.get(setting.path)
                origins[setting.path] = given.origin if given else DEFAULT
        _take_own_member(values, origins)
        sections: dict[str, Any] = {}
        for section, kind in SECTIONS.items():
            settings = section_settings(section).values()
            sections[section] = kind(**{item.field: values[item.path] for item in settings})
        config = Config(**sections, origins=origins)
        self._check(config)
        return None if self.faults else _placed(config, self._base)

    def _value(self, setting: Setting) -> object:
        given = self._given.get(setting.path)
        if given is None:
            if setting.required:
                self.faults.append(ConfigFault(setting.path, "", _missing(setting)))
            return setting.default
        if setting.form == "members" and not given.text:
            return self._members(given)
        try:
            return parse_value(setting, given.raw, text=given.text, base=given.base)
        except Rejected as rejected:
            self.faults.append(ConfigFault(setting.path, given.origin, rejected.detail))
            return setting.default

    def _members(self, given: Given) -> tuple[MemberConfig, ...]:
        setting = section_settings("cluster")["members"]
        if not isinstance(given.raw, list) or not given.raw:
            detail = f"{shown(given.raw)} is not allowed; use {setting.expected}."
            self.faults.append(ConfigFault(setting.path, given.origin, detail))
            return ()
        members = []
        for number, table in enumerate(given.raw):
            faults = list(self._member_faults(table, f"{setting.path}[{number}]", given))
            self.faults += faults
            if not faults:
                members.append(msgspec.convert(table, MemberConfig))
        return tuple(members)

    def _member_faults(self, table: object, path: str, given: Given) -> Iterator[ConfigFault]:
        if not isinstance(table, dict):
            yield ConfigFault(path, given.origin, f"A member is a table, not {shown(table)}.")
            return
        known = member_settings()
        for key in table.keys() - known.keys():
            detail = f"There is no such setting. Known: {', '.join(known)}."
            yield ConfigFault(f"{path}.{key}", given.origin, detail)
        for key, setting in known.items():
            if key not in table:
                if setting.required:
                    yield ConfigFault(f"{path}.{key}", given.origin, _missing(setting))
                continue
            try:
                parse_value(setting, table[key], text=False, base=given.base)
            except Rejected as rejected:
                yield ConfigFault(f"{path}.{key}", given.origin, rejected.detail)

    def _check(self, config: Config) -> None:
        # "cluster.members[0].address" refuses "cluster.members" as a whole.
        refused = {fault.path.partition("[")[0] for fault in self.faults}
        for path, detail in broken_rules(config, refused):
            origin = config.origins[path]
            self.faults.append(ConfigFault(path, "" if origin == DEFAULT else origin, detail))


def _missing(setting: Setting) -> str:
    return f"It is required; give {setting.expected}."


def _take_own_member(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Fill in what the member's own table says, unless the environment or a flag says more."""
    members = values["cluster.members"]
    if not values["node.name"] and len(members) == 1:
        values["node.name"] = members[0].name
        origins["node.name"] = MEMBER_TABLE
    own = next((member for member in members if member.name == values["node.name"]), None)
    nearer = origins["http.port"].startswith(ENVIRONMENT_PREFIX) or origins["http.port"] == FLAG
    if own is not None and own.http_port is not None and not nearer:
        values["http.port"] = own.http_port
        origins["http.port"] = MEMBER_TABLE


def _placed(config: Config, base: Path) -> Config:
    """Make every path absolute and put the member's name where {name} stands."""
    name = config.node.name

    def placed(path: Path | None) -> Path | None:
        return None if path is None else Path(str(base / path).replace("{name}", name))

    tls = config.tls
    data_dir = placed(config.node.data_dir)
    assert data_dir is not None
    return msgspec.structs.replace(
        config,
        node=msgspec.structs.replace(config.node, data_dir=data_dir),
        tls=msgspec.structs.replace(
            tls, ca=placed(tls.ca), certificate=placed(tls.certificate), key=placed(tls.key)
        ),
    )
