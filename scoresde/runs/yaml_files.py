"""Settings to YAML files, and back.

The files are plain YAML, in base 10, each name once. What settings never need (anchors, aliases,
tags, merge keys, large files) is refused, so that any file can be opened safely.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from scoresde.reading import UnreadableError, open_regular
from scoresde.runs.settings import ConfigError, to_dict
from scoresde.writing import write_atomically

LARGEST = 2**17
"""The size in bytes beyond which a file is not read: no settings are that long."""


def save_yaml(settings: Any, path: str | os.PathLike[str]) -> None:
    """Writes settings as a YAML file, which appears whole or not at all."""
    write_atomically(path, yaml.safe_dump(to_dict(settings), sort_keys=False).encode())


def load_yaml(path: str | os.PathLike[str], inside: Path | None = None) -> dict[Any, Any]:
    """Returns the plain data of a YAML file, whoever wrote it; `from_dict` makes settings of them.

    inside: the folder that must hold the file, after every link has been followed; None allows any.

    Raises:
        ConfigError: if the file is not plain YAML with lines `name: value`, sets a name twice or is
            too large.
    """
    try:
        with open_regular(path, inside) as stream:
            content = stream.read(LARGEST + 1)
        is_too_large = len(content) > LARGEST
        data = None if is_too_large else yaml.load(content.decode(), _Loader)
    except UnreadableError as error:
        raise ConfigError(str(error)) from error
    except yaml.MarkedYAMLError as error:
        raise _unreadable(path, _problem(error)) from error
    except RecursionError as error:
        raise _unreadable(path, "nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error

    if is_too_large:
        raise ConfigError(f"{path} holds more than {LARGEST} bytes: wanted lines `name: value`.")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} holds a value of type {type(data).__name__}: wanted lines `name: value`."
        )
    return data


def _unreadable(path: str | os.PathLike[str], reason: Any) -> ConfigError:
    return ConfigError(f"{path}: not readable as YAML: {reason}")


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Returns what is wrong, with its line and column where they are known."""
    problem = str(error.problem or error.context)
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


# --- The subset of YAML that is read ---


class _Loader(yaml.SafeLoader):
    """Reads plain YAML; refuses anchors, aliases, tags, merge keys and names set twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors, aliases and tags (&, *, !) are not allowed in settings",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)

        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                _check_key(key, lines)
                lines[key.value] = key.start_mark.line + 1
        return node


def _check_key(key: yaml.ScalarNode, lines: dict[str, int]) -> None:
    """Refuses merge keys, and a name that is already among those in `lines`."""
    if key.tag == "tag:yaml.org,2002:merge":
        raise yaml.MarkedYAMLError(
            problem="merge keys (<<) are not allowed in settings", problem_mark=key.start_mark
        )
    if key.value in lines:
        raise yaml.MarkedYAMLError(
            problem=f"{key.value!r} is already set in line {lines[key.value]}: keep one of the two",
            problem_mark=key.start_mark,
        )


# Whole numbers are read in base 10 only: YAML 1.1 would read 010 as 8 and 1:30 as 90.
INTEGER = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INTEGER, re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
