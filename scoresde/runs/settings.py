"""Settings objects to and from YAML."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import jax
import numpy as np
import yaml
from cattrs.v import format_exception

from scoresde.runs.files import write_atomically
from scoresde.types import Scalar

T = TypeVar("T")
LARGEST = 2**17
"""Bytes of a settings file beyond which it is not read."""


class ConfigError(ValueError):
    """Settings that cannot be read: the message names the place."""


def union_members(kind: Any) -> tuple[type, ...]:
    """The classes of a closed union of settings, such as VP | SubVP | VE; none of any other type."""
    members = typing.get_args(kind) if isinstance(kind, types.UnionType) else ()
    return (
        members
        if len(members) > 1 and all(dataclasses.is_dataclass(member) for member in members)
        else ()
    )


# --- Objects to plain data and back ---


@functools.cache
def _converter() -> cattrs.Converter:
    """Tagged closed unions, unknown keys refused, no value taken for one of another type, a Scalar a plain number."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def number(value: Any, _: Any = None) -> float:
        if isinstance(value, bool) or value is None or math.isnan(float(value)):
            raise ValueError(f"{value!r} is not a number")
        return float(value)  # also "1e-3", which YAML 1.1 reads as a string

    def exactly(kind: type, wanted: str) -> None:
        def check(value: Any, _: Any = None) -> Any:
            if type(value) is not kind:
                raise ValueError(f"{value!r} is not {wanted}")
            return value

        converter.register_structure_hook(kind, check)

    converter.register_structure_hook_func(lambda kind: kind == Scalar, number)
    converter.register_structure_hook(float, number)
    exactly(int, "a whole number")
    exactly(bool, "true or false")
    exactly(str, "text: put it in quotes")
    for array in (jax.Array, np.ndarray, np.generic):
        converter.register_unstructure_hook(array, lambda a: np.asarray(a).tolist())
    converter.register_unstructure_hook_func(lambda kind: kind == Scalar, float)
    converter.register_unstructure_hook(tuple, list)

    def check_mapping(data: Any) -> None:
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise ValueError(
                f"{_short(data)} stands where settings are wanted, one `name: value` a line"
            )

    def read_object(kind: Any) -> Callable[[Any, Any], Any]:
        structure = converter.gen_structure_attrs_fromdict(kind)

        def read(data: Any, _: Any) -> Any:
            check_mapping(data)
            return structure(data, kind)

        return read

    def read_member(kind: Any) -> Callable[[Any, Any], Any]:
        members = {member.__name__: member for member in union_members(kind)}

        def read(data: Any, _: Any) -> Any:
            check_mapping(data)
            name = data.get("kind")
            if not isinstance(name, str) or name not in members:
                raise ValueError(f"kind is {_short(name)}: wanted one of {', '.join(members)}")
            return converter.structure(
                {key: value for key, value in data.items() if key != "kind"}, members[name]
            )

        return read

    def write_member(kind: Any) -> Callable[[Any], dict]:
        def write(value: Any) -> dict:
            fields = (
                converter.unstructure(value)
                if dataclasses.is_dataclass(value)
                else {"value": stable_repr(value)}
            )
            return {"kind": type(value).__name__} | fields

        return write

    converter.register_structure_hook_factory(dataclasses.is_dataclass, read_object)
    converter.register_structure_hook_factory(lambda kind: bool(union_members(kind)), read_member)
    converter.register_unstructure_hook_factory(
        lambda kind: bool(union_members(kind)), write_member
    )
    return converter


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


def stable_repr(value: Any) -> str:
    """The same in every process: without the memory addresses of functions and objects."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def to_dict(settings: Any, kind: Any = None) -> Any:
    """Plain dicts, lists and numbers of a settings object; members of a union carry their class name as `kind`."""
    return _plain(_converter().unstructure(settings, unstructure_as=kind))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def from_dict(data: Any, kind: type[T] | types.UnionType, place: str = "") -> T:
    """The settings object that `to_dict` wrote; kind: its class, or a closed union of classes.

    Raises:
        ConfigError: for an unknown key, a wrong type or a value out of range, with its place (below `place`, a file's
            name say).
    """
    try:
        return _converter().structure(data, typing.cast(Any, kind))
    except Exception as error:
        lines = cattrs.transform_error(
            error, place or getattr(kind, "__name__", "settings"), _reason
        )
        raise ConfigError("; ".join(lines)) from error


def _reason(error: BaseException, kind: Any) -> str:
    """Why a value was refused: the message of the check that refused it, or cattrs's own words."""
    said = str(error)
    return (
        said
        if isinstance(error, (ValueError, TypeError)) and said
        else format_exception(error, kind)
    )


# --- Files ---


class _Loader(yaml.SafeLoader):
    """Plain YAML, with what settings never need refused: anchors, aliases, tags, and a key that comes twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors, aliases and tags (&, *, !) are not for settings",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    problem="merge keys (<<) are not for settings", problem_mark=key.start_mark
                )
            if key.value in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands in line {lines[key.value]} too: keep one",
                    problem_mark=key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return node


_Loader.yaml_implicit_resolvers = {  # numbers in base 10 only: YAML 1.1 reads 010 as 8 and 1:30 as 90
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)


def save_yaml(settings: Any, path: str | os.PathLike[str]) -> None:
    """Write settings as YAML, whole or not at all."""
    write_atomically(path, yaml.safe_dump(to_dict(settings), sort_keys=False).encode())


def load_yaml(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """The plain data of a YAML file, whoever wrote it.

    Raises:
        ConfigError: if it is no plain YAML of `name: value` lines, names a setting twice, or is too large.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LARGEST + 1)
        data = yaml.load(content.decode(), _Loader) if len(content) <= LARGEST else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{path}: not readable as YAML: {place}{error.problem or error.context}"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from error
    if not isinstance(data, dict):
        found = (
            f"more than {LARGEST} bytes"
            if len(content) > LARGEST
            else f"no settings but {type(data).__name__}"
        )
        raise ConfigError(f"{path} holds {found}: wanted lines `name: value`.")
    return data
