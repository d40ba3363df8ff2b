"""Where settings come from: files, the environment, flags. Each yields entries with dotted names."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

PREFIX = "FEEDER_HUB_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
SECRETS_DIR_VARIABLE = PREFIX + "SECRETS_DIR"
NO_SETTINGS = frozenset({CONFIG_VARIABLE, SECRETS_DIR_VARIABLE, PREFIX + "URL", PREFIX + "TOKEN"})
"""The last two are for `feeder-hub api`, and may stand in the same environment."""


class SourceError(Exception):
    """A source that was asked for cannot be read; the text says which and why."""


@dataclass(frozen=True)
class Entry:
    """One value as given. `name` is dotted (`http.port`); `spell` writes a name the way the source does."""

    name: str
    value: object
    spell: Callable[[str], str]

    @property
    def place(self) -> str:
        """How to tell the admin which entry is meant."""
        return self.spell(self.name)


def as_variable(name: str) -> str:
    """The environment variable of a setting: `http.port` is FEEDER_HUB_HTTP__PORT."""
    return PREFIX + name.upper().replace(".", "__")


def from_overrides(overrides: Mapping[str, object]) -> Iterator[Entry]:
    """Entries of the command line, dotted or nested. None says that the flag was not given."""
    for name, value in _flat(overrides):
        if value is not None:
            yield Entry(name, value, lambda name: f"{name} on the command line")


def from_environment(environ: Mapping[str, str]) -> Iterator[Entry]:
    """Entries of the variables that start with FEEDER_HUB_. An empty variable counts as not set."""
    for variable, value in sorted(environ.items()):
        if _is_ours(variable) and value and variable.upper() not in NO_SETTINGS:
            yield Entry(_setting_of(variable), value, as_variable)


def from_secrets(directory: Path) -> Iterator[Entry]:
    """Entries of a directory of files named as the variables are, one value a file; others are not ours."""
    try:
        for path in sorted(directory.iterdir()):
            if _is_ours(path.name):
                value = path.read_text(encoding="utf-8").strip()
                yield Entry(_setting_of(path.name), value, lambda name: f"{directory / as_variable(name)}")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{SECRETS_DIR_VARIABLE} {directory}: {error}") from error


def from_toml(path: Path) -> Iterator[Entry]:
    """Entries of a TOML file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"the settings file {path}: {error}") from error
    for name, value in _flat(tables):
        yield Entry(name, value, lambda name: f"{name} in {path}")


def misspelt(entry: Entry, names: Iterable[str]) -> str | None:
    """What is wrong with the entry's name, with the nearest right one; None where it names a setting."""
    known = list(names)
    if entry.name in known:
        return None
    inside = [name for name in known if name.startswith(entry.name + ".")]
    if inside:
        return f"{entry.place} is a section, not a setting; it has {', '.join(inside)}"
    if entry.spell is as_variable:
        known += [_setting_of(CONFIG_VARIABLE), _setting_of(SECRETS_DIR_VARIABLE)]
    nearest = get_close_matches(entry.name, known, n=1, cutoff=0.0)[0]
    return f"{entry.place}: there is no such setting; did you mean {entry.spell(nearest)}?"


def nested(values: Mapping[str, object]) -> dict[str, object]:
    """Dotted names as nested dictionaries, as the model wants them."""
    tree: dict[str, object] = {}
    for name, value in values.items():
        section, _, leaf = name.rpartition(".")
        branch = tree.setdefault(section, {}) if section else tree
        assert isinstance(branch, dict)
        branch[leaf] = value
    return tree


def _is_ours(variable: str) -> bool:
    return variable.upper().startswith(PREFIX)


def _setting_of(variable: str) -> str:
    return variable[len(PREFIX) :].lower().replace("__", ".")


def _flat(tree: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
