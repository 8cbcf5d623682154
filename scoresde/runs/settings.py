"""Settings objects to plain data (dicts, lists, numbers and text), and back.

A settings object is a dataclass. Where a field offers a closed union of dataclasses, such as
VP | SubVP | VE, the plain data name the class under `kind`: {"kind": "VE", "sigma_max": 50.0}.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import cattrs
import jax
import numpy as np
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.v import format_exception

from scoresde.types import Classes, Scalar

T = TypeVar("T")


class ConfigError(ValueError):
    """Settings that cannot be read; the message says where the fault is."""


def to_dict(settings: Any, kind: Any = None) -> Any:
    """Returns a settings object as plain dicts, lists, numbers and text.

    Members of a union carry the name of their class as `kind`. The argument `kind` is the type as
    which the object is written, by default its class; pass a union to get that tag at the top too.
    """
    return _lists_for_tuples(_converter().unstructure(settings, unstructure_as=kind))


def from_dict(data: Any, kind: type[T] | types.UnionType, place: str = "") -> T:
    """Returns the settings object that `to_dict` turned into `data`.

    kind: the object's class, or a closed union of classes. place: what `data` is called in error
    messages, for example the name of its file.

    Raises:
        ConfigError: for an unknown name, a value of the wrong type or a value out of range, with
            its place.
    """
    try:
        return _converter().structure(data, typing.cast(Any, kind))
    except Exception as error:
        place = place or getattr(kind, "__name__", "settings")
        faults = cattrs.transform_error(error, place, _reason)
        raise ConfigError("; ".join(faults)) from error


def union_members(kind: Any) -> tuple[type, ...]:
    """Returns the classes of a closed union of settings, such as VP | SubVP | VE, or ()."""
    if not isinstance(kind, types.UnionType):
        return ()

    members = typing.get_args(kind)
    if len(members) < 2 or not all(dataclasses.is_dataclass(member) for member in members):
        return ()
    return members


def is_setting(field: dataclasses.Field) -> bool:
    """Returns whether files and the command line may set a field, unlike one of `NO_SETTING`."""
    return field.metadata.get("setting", True)


def stable_repr(value: Any) -> str:
    """Returns `repr(value)` without memory addresses, so that every process gets the same text.

    Arrays are written in full: two long ones may differ in the middle.
    """
    with np.printoptions(threshold=sys.maxsize):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


# --- The converter ---


@functools.cache
def _converter() -> cattrs.Converter:
    """Returns the converter of every settings class: strict about names and types."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    _convert_numbers_and_text(converter)
    _convert_arrays(converter)
    _convert_objects(converter)
    _convert_unions(converter)
    return converter


def _convert_numbers_and_text(converter: cattrs.Converter) -> None:
    """Takes no value for one of another type: not true for 1, nor 7 for "7"."""
    converter.register_structure_hook_func(lambda kind: kind == Scalar, _number)
    converter.register_structure_hook(float, _number)
    converter.register_unstructure_hook_func(lambda kind: kind in (Scalar, float), float)

    converter.register_structure_hook(int, _only(int, "a whole number"))
    converter.register_structure_hook(bool, _only(bool, "true or false"))
    converter.register_structure_hook(str, _only(str, "text: put it in quotes"))
    converter.register_structure_hook_func(lambda kind: kind == Classes, _classes)
    converter.register_unstructure_hook_func(lambda kind: kind == Classes, lambda value: value)


def _number(value: Any, _: Any = None) -> float:
    # float() also reads "1e-3", which YAML 1.1 takes for text.
    if isinstance(value, bool) or value is None or math.isnan(float(value)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _classes(value: Any, _: Any = None) -> Any:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if value is not None and not all(type(number) is int for number in numbers):
        raise ValueError(f"{value!r} is not a whole number, nor a list of them")
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _only(kind: type, wanted: str) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any = None) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not {wanted}")
        return value

    return check


def _convert_arrays(converter: cattrs.Converter) -> None:
    for array in (jax.Array, np.ndarray, np.generic):
        converter.register_unstructure_hook(array, lambda value: np.asarray(value).tolist())
    converter.register_unstructure_hook(tuple, list)


def _convert_objects(converter: cattrs.Converter) -> None:
    """Reads a dataclass from a dict of its fields only, and writes those that are settings."""

    def omitted(kind: Any) -> dict[str, Any]:
        fields = dataclasses.fields(kind)
        return {field.name: override(omit=True) for field in fields if not is_setting(field)}

    def reader(kind: Any) -> Callable[[Any, Any], Any]:
        structure = make_dict_structure_fn(
            kind, converter, _cattrs_forbid_extra_keys=True, **omitted(kind)
        )

        def read(data: Any, _: Any) -> Any:
            _check_mapping(data)
            return structure(data, kind)

        return read

    def writer(kind: Any) -> Callable[[Any], dict]:
        return make_dict_unstructure_fn(kind, converter, **omitted(kind))

    converter.register_structure_hook_factory(dataclasses.is_dataclass, reader)
    converter.register_unstructure_hook_factory(dataclasses.is_dataclass, writer)


def _convert_unions(converter: cattrs.Converter) -> None:
    """Reads and writes a member of a closed union with the name of its class as `kind`."""

    def is_union(kind: Any) -> bool:
        return bool(union_members(kind))

    def reader(kind: Any) -> Callable[[Any, Any], Any]:
        members = {member.__name__: member for member in union_members(kind)}

        def read(data: Any, _: Any) -> Any:
            _check_mapping(data)
            name = data.get("kind")
            if not isinstance(name, str) or name not in members:
                raise ValueError(f"kind is {_short(name)}: wanted one of {', '.join(members)}")
            fields = {key: value for key, value in data.items() if key != "kind"}
            return converter.structure(fields, members[name])

        return read

    def writer(kind: Any) -> Callable[[Any], dict]:
        def write(value: Any) -> dict:
            if dataclasses.is_dataclass(value):
                fields = converter.unstructure(value)
            else:
                # A custom object, which only Python can make: the file only says what it was.
                fields = {"value": stable_repr(value)}
            return {"kind": type(value).__name__} | fields

        return write

    converter.register_structure_hook_factory(is_union, reader)
    converter.register_unstructure_hook_factory(is_union, writer)


def _check_mapping(data: Any) -> None:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError(
            f"{_short(data)} is not a group of settings: write one `name: value` per line"
        )


# --- Helpers ---


def _lists_for_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_for_tuples(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists_for_tuples(entry) for entry in value]
    return value


def _reason(error: BaseException, kind: Any) -> str:
    """Returns why a value was refused: the message of its check, or the one of cattrs."""
    message = str(error)
    if isinstance(error, (ValueError, TypeError)) and message:
        return message
    return format_exception(error, kind)


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" ...")
