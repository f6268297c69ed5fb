"""From one raw value to the value of a setting, or to the sentence that refuses it.

A value comes from TOML with a type, or as text from the environment or a flag; text is taken
for what the setting wants to be, and TOML is not: there `port = "8901"` is a mistake.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import msgspec

from api.durations import parse_duration
from api.faults import Rejected, shown
from consensus.configuration import split_address
from node.config.schema import Setting, member_settings
from node.config.settings import MEMBERS_MAX, MemberConfig


def parse_value(setting: Setting, raw: object, *, text: bool, base: Path) -> object:
    """Return the value of a setting; `base` is the folder that relative paths start from.

    Raises:
        Rejected: it is none. The detail says what is expected, without the setting's name.
    """
    if setting.form == "duration":
        return _duration(setting, raw)
    if setting.form == "path":
        return _path(setting, raw, base)
    if setting.form == "address":
        return "{}:{}".format(*_address(setting, raw))
    if setting.form == "loopback":
        return _loopback(setting, raw)
    if setting.form == "labels":
        raw = _pairs(setting, raw) if text else raw
    if setting.form == "members":
        return _members_of_text(setting, raw)
    return _plain(setting, raw, text=text)


def _refusal(setting: Setting, raw: object) -> Rejected:
    given = str(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else shown(raw)
    return Rejected("invalid_value", f"{given} is not allowed; use {setting.expected}.")


def _duration(setting: Setting, raw: object) -> int:
    low, high = int(setting.meta.ge or 0), int(setting.meta.le or 0)
    try:
        return parse_duration(raw, minimum_ms=low, maximum_ms=high)
    except Rejected:
        raise _refusal(setting, raw) from None


def _path(setting: Setting, raw: object, base: Path) -> Path:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise _refusal(setting, raw)
    return Path(os.path.abspath(base / raw))


def _address(setting: Setting, raw: object) -> tuple[str, int]:
    found = split_address(raw) if isinstance(raw, str) else None
    if found is None or any(character.isspace() or character == "/" for character in found[0]):
        raise _refusal(setting, raw)
    host, port = found
    return (f"[{host}]" if ":" in host else host), port


def is_loopback(host: str) -> bool:
    """Tell whether a host can only be reached from this machine; names are not resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _loopback(setting: Setting, raw: object) -> str:
    if isinstance(raw, str) and is_loopback(raw):
        return raw
    raise Rejected(
        "not_loopback",
        f"{setting.path} must be a loopback address (127.0.0.1, ::1 or localhost), not "
        f"{shown(raw)}: the API has no authentication yet and must not be reachable from other "
        "machines.",
    )


def _pairs(setting: Setting, raw: object) -> dict[str, str]:
    """Return {"a": "1", "b": "2"} for "a=1,b=2"; no text means no pairs."""
    pairs = {}
    for part in str(raw).split(",") if raw else ():
        key, equals, value = part.strip().partition("=")
        if not key or not equals or key in pairs:
            raise _refusal(setting, raw)
        pairs[key] = value
    return pairs


def _members_of_text(setting: Setting, raw: object) -> tuple[MemberConfig, ...]:
    if not isinstance(raw, str):
        raise _refusal(setting, raw)
    known = member_settings()
    pairs = _pairs(setting, raw)
    if len(pairs) > MEMBERS_MAX:
        raise Rejected("too_many", f"A cluster has at most {MEMBERS_MAX} members.")
    members = []
    for name, address in pairs.items():
        host, port = _address(known["address"], address)
        _plain(known["name"], name, text=True)
        members.append(MemberConfig(name=name, address=f"{host}:{port}"))
    return tuple(members)


def _plain(setting: Setting, raw: object, *, text: bool) -> object:
    if text and setting.type is bool and raw in ("true", "false"):
        raw = raw == "true"
    try:
        return msgspec.convert(raw, setting.hint, strict=not text)
    except msgspec.ValidationError:
        raise _refusal(setting, raw) from None
