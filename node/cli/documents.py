"""Job files: TOML, JSON and YAML, with one job or many.

YAML is read by its own strict rules and not by those of YAML 1.1, where 12:30 is 750, on is
true and 0123 is 83: what does not look like JSON's numbers, booleans or null is a text.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

from node.cli.exits import NOT_FOUND, CommandFailed
from node.cli.output import NO_YAML

FORMATS = {".toml": "toml", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}
# Far above what a thousand jobs take; a slip of the finger should not fill the memory.
FILE_BYTES_MAX = 64 * 1_048_576
_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_PLAIN = (
    (_NULL, r"null|~|", "n~"),
    (_BOOL, r"true|false", "tf"),
    (_INT, r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    (_FLOAT, r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", "-0123456789"),
)


class Document(NamedTuple):
    """A job as a file gives it; `source` says where it stands."""

    source: str
    job: dict[str, Any]


def read_documents(path: str, form: str | None) -> Iterator[Document]:
    """Yield the jobs of a file, of all job files of a folder, or of standard input ("-").

    Raises:
        CommandFailed: a file is missing, cannot be read, or holds something else.
    """
    if path == "-":
        text = sys.stdin.read(FILE_BYTES_MAX)
        yield from _parse("standard input", text, form or _guess(text))
        return
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in FORMATS)
        if not files:
            known = ", ".join(FORMATS)
            raise CommandFailed(f"There is no job file in {path} ({known}).", NOT_FOUND)
        for file in files:
            yield from _parse(str(file), _text(file), FORMATS[file.suffix])
        return
    text = _text(place)
    yield from _parse(path, text, form or FORMATS.get(place.suffix) or _guess(text))


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise CommandFailed(f"{file} is larger than {FILE_BYTES_MAX} bytes.")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CommandFailed(f"There is no file {file}.", NOT_FOUND) from None
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file} is not UTF-8: see byte {error.start}.") from None


def _guess(text: str) -> str:
    """Return the format that a text without a file name has, as far as one can tell."""
    begin = text.lstrip()[:1]
    if begin == "{":
        return "json"
    if begin == "[" and not re.match(r"\s*\[\[?\s*[A-Za-z_\"']+[\w.\"']*\s*\]", text):
        return "json"
    return "toml" if re.match(r"(?:\s*(?:#.*)?\n)*\s*(?:\[|[\w\"'-]+\s*=)", text) else "yaml"


def _parse(source: str, text: str, form: str) -> Iterator[Document]:
    parsed = {"toml": _toml, "json": _json, "yaml": _yaml}[form](source, text)
    listed = []
    for value in parsed:
        if isinstance(value, dict) and set(value) == {"jobs"}:
            value = value["jobs"]  # noqa: PLW2901
        listed += value if isinstance(value, list) else [value]
    for number, job in enumerate(listed, start=1):
        place = source if len(listed) == 1 else f"{source}, job {number}"
        if not isinstance(job, dict):
            raise CommandFailed(f"{place}: a job is a table of fields, not {job!r:.40}.")
        if not isinstance(job.get("name"), str):
            raise CommandFailed(f'{place}: "name" is required, and is a text.')
        yield Document(place, _plain(job, place))


def _toml(source: str, text: str) -> list[Any]:
    try:
        return [tomllib.loads(text)]
    except tomllib.TOMLDecodeError as error:
        raise CommandFailed(f"{source} is not TOML: {error}.") from None


def _json(source: str, text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError as error:
        raise CommandFailed(f"{source} is not JSON: {error}.") from None


def _yaml(source: str, text: str) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415
    except ImportError:
        raise CommandFailed(f"{source}: {NO_YAML}") from None

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    for tag, pattern, first in _PLAIN:
        starts = [*first, ""] if tag == _NULL else list(first)
        Loader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern})$"), starts)
    try:
        found = list(yaml.load_all(text, Loader=Loader))
    except yaml.YAMLError as error:
        raise CommandFailed(f"{source} is not YAML: {error}") from None
    return [document for document in found if document is not None]


def _plain(value: Any, place: str) -> Any:
    """Return a value as JSON knows it; a TOML time with an offset becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, place) for item in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (datetime, date, time)):
        raise CommandFailed(
            f'{place}: {value} has no offset; write a text such as "2027-01-01T00:00:00Z".'
        )
    return value
