"""Names of models that change while a gateway runs: a file that `manyhands gateway alias` writes.

In: a file in the home. Out: names and the models they mean, read again when it has changed. A file
that cannot be read while a gateway runs leaves the names as they were.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from manyhands.gateway.reloaded import Reloaded
from manyhands.home import Home
from manyhands.private_files import write_whole
from protocol.errors import ConfigError, UsageError

MAX_ALIASES, MAX_CHARS = 1000, 512


class AliasFile:
    """
    Raises:
        ConfigError: the file is there, and is not what this program writes.
    """

    def __init__(self, path: Path) -> None:
        self._file = Reloaded(lambda: read(path), path)

    @property
    def names(self) -> dict[str, str]:
        return self._file.held

    def refresh(self) -> bool:
        """Whether there is something new."""
        return self._file.look()


def read(path: Path) -> dict[str, str]:
    """
    Raises:
        ConfigError: it is no file of aliases.
    """
    try:
        names = json.loads(path.read_bytes())["aliases"]
        for name, model in names.items():
            require_name(name)
            require_name(model)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        hint = "move the file away to begin with none, or restore it"
        raise ConfigError(f"cannot read the aliases in {path}", hint=hint) from error
    return dict(names)


def write(path: Path, names: Mapping[str, str]) -> None:
    if len(names) > MAX_ALIASES:
        raise UsageError(f"a gateway has up to {MAX_ALIASES} aliases")
    write_whole(path, json.dumps({"aliases": dict(names)}).encode())


def require_name(text: object) -> None:
    """
    Raises:
        UsageError: nobody could ask for it.
    """
    if not (isinstance(text, str) and 0 < len(text) <= MAX_CHARS and text.isprintable()):
        raise UsageError(f"a name has 1 to {MAX_CHARS} printable characters")


def aliases_path(home: Home) -> Path:
    return home.root / "gateway" / "aliases.json"
