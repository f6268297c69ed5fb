"""What the types of the settings say, in a form that can be walked and put into words.

One `Setting` per field of the records in `node.config.settings`: the reader judges values by
it, and the example file and every refusal quote the same bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from api.durations import format_duration
from node.config.settings import SECTIONS, MemberConfig

NAME_EXPECTED = (
    "a name of 1 to 63 letters, digits, dots, hyphens or underscores that begins and ends with a "
    "letter or a digit"
)
FORMS_EXPECTED = {
    "path": "a path",
    "address": 'the address of a peer such as "10.0.0.1:7901" or "node1.example:7901"',
    "loopback": "a loopback address: 127.0.0.1, ::1 or localhost",
    "labels": "a table of texts, or in one line region=eu,disk=ssd",
    "members": "a list of [[cluster.members]] tables, or in one line n1=host:port,n2=host:port",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `path` is its full name in a file, `field` the attribute that holds it."""

    path: str
    key: str
    field: str
    hint: Any  # the annotated type, which msgspec checks values against
    type: Any
    meta: msgspec.Meta
    default: object

    @property
    def form(self) -> str:
        return str((self.meta.extra or {}).get("form", ""))

    @property
    def required(self) -> bool:
        return bool((self.meta.extra or {}).get("required"))

    @property
    def description(self) -> str:
        return self.meta.description or ""

    @property
    def expected(self) -> str:
        """What a value has to be, as the end of a sentence."""
        if self.form == "duration":
            low, high = (format_duration(int(bound or 0)) for bound in (self.meta.ge, self.meta.le))
            return f'a duration from "{low}" to "{high}"'
        if self.form:
            return FORMS_EXPECTED[self.form]
        return _expected_of_type(self.type, self.meta)


def _expected_of_type(kind: Any, meta: msgspec.Meta) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if kind is bool:
        return "true or false"
    if kind is str:
        return NAME_EXPECTED
    return f"a whole number from {meta.ge} to {meta.le}"


@cache
def settings_of(section: type[msgspec.Struct], prefix: str) -> Mapping[str, Setting]:
    """Return the settings of one record by their key in a file, in the order of the record."""
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for item in msgspec.structs.fields(section):
        hint = _without_none(hints[item.name])
        assert get_origin(hint) is Annotated
        kind, *notes = get_args(hint)
        default = item.default
        if item.default_factory is not msgspec.NODEFAULT:
            default = item.default_factory()
        found[item.encode_name] = Setting(
            path=f"{prefix}.{item.encode_name}",
            key=item.encode_name,
            field=item.name,
            hint=hint,
            type=kind,
            meta=next(note for note in notes if isinstance(note, msgspec.Meta)),
            default=None if default is msgspec.NODEFAULT else default,
        )
    return found


def _without_none(kind: Any) -> Any:
    kept = [part for part in get_args(kind) if part is not NoneType]
    return kept[0] if NoneType in get_args(kind) else kind


def section_settings(section: str) -> Mapping[str, Setting]:
    """Return the settings of one section of the file by their key.

    Raises:
        KeyError: there is no such section.
    """
    return settings_of(SECTIONS[section], section)


def member_settings() -> Mapping[str, Setting]:
    """Return the settings of one `[[cluster.members]]` table by their key."""
    return settings_of(MemberConfig, "cluster.members")
