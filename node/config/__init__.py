"""The configuration of a node: defaults, then the file, then the environment, then flags.

What stands later in that order counts. The file is TOML with the sections of
`node.config.settings`; the variable of `heartbeat` in `[raft]` is CRONCLAVE_RAFT__HEARTBEAT.
Nothing is ignored: a section or setting that does not exist is refused like a bad value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from node.config.reader import ConfigFault, Reader
from node.config.settings import Config

__all__ = ["Config", "ConfigFault", "ConfigRefused", "load_config", "missing_files"]


class ConfigRefused(Exception):
    """A configuration that no node can work with; its text has one line for each fault."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


def load_config(
    path: Path | None, environment: Mapping[str, str], overrides: Mapping[str, str]
) -> Config:
    """Return the effective configuration of this node.

    `path` is the file, if there is one; `overrides` maps settings ("node.name") to text.
    Relative paths start from the file's folder when they stand in it, else from the current
    folder. The files that they name are not opened.

    Raises:
        ConfigRefused: the file cannot be read, or a setting is unknown, wrong or missing.
    """
    here = Path.cwd()
    reader = Reader(here if path is None else (here / path).parent)
    if path is not None:
        reader.add_file(_parsed(path), str(path))
    reader.add_environment(environment, here)
    reader.add_overrides(overrides, here)
    config = reader.finish()
    if config is None:
        raise ConfigRefused(reader.faults)
    return config


def _parsed(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        detail = f"It cannot be read: {error.strerror}."
    except UnicodeDecodeError as error:
        detail = f"It is not UTF-8: byte {error.start} is {error.object[error.start]:#x}."
    except tomllib.TOMLDecodeError as error:
        detail = f"It is not TOML: {error}."
    raise ConfigRefused([ConfigFault(str(path), "", detail)])


def missing_files(config: Config) -> list[ConfigFault]:
    """Return a fault for each file that the configuration names and this node cannot read."""
    faults = []
    for what in ("ca", "certificate", "key"):
        file: Path | None = getattr(config.tls, what)
        if file is None:
            continue
        try:
            file.open("rb").close()
        except OSError as error:
            detail = f"{file} cannot be read: {error.strerror}."
            faults.append(ConfigFault(f"tls.{what}", config.origins[f"tls.{what}"], detail))
    return faults
