"""Settings objects to and from YAML, and onto the command line."""

from __future__ import annotations

import dataclasses
import os
import sys
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

from scoresde.files import write_atomically
from scoresde.types import Scalar

T = TypeVar("T")


class ConfigError(ValueError):
    """Settings that cannot be read: the message names the place."""


# --- Objects to plain data and back ---


def _converter() -> cattrs.Converter:
    """Tagged closed unions, unknown keys refused, a Scalar written as a plain number."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def number(value: Any, _: Any = None) -> float:
        if isinstance(value, bool) or value is None:
            raise ValueError(f"{value!r} is not a number")
        return float(value)  # also "1e-3", which YAML 1.1 reads as a string

    def whole(value: Any, _: Any = None) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{value!r} is not a whole number")
        return value

    def boolean(value: Any, _: Any = None) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value

    converter.register_structure_hook_func(lambda kind: kind == Scalar, number)
    converter.register_structure_hook(float, number)
    converter.register_structure_hook(int, whole)
    converter.register_structure_hook(bool, boolean)
    for array in (jax.Array, np.ndarray, np.generic):
        converter.register_unstructure_hook(array, lambda a: np.asarray(a).tolist())
    converter.register_unstructure_hook_func(lambda kind: kind == Scalar, float)
    converter.register_unstructure_hook(tuple, list)

    def is_closed_union(kind: Any) -> bool:
        members = typing.get_args(kind) if isinstance(kind, types.UnionType) else ()
        return len(members) > 1 and all(dataclasses.is_dataclass(member) for member in members)

    def write(kind: Any) -> Callable[[Any], dict]:
        def unstructure(value: Any) -> dict:
            fields = converter.unstructure(value) if dataclasses.is_dataclass(value) else {"value": repr(value)}
            return {"kind": type(value).__name__} | fields

        return unstructure

    def read(kind: Any) -> Callable[[Any, Any], Any]:
        members = {member.__name__: member for member in typing.get_args(kind)}

        def structure(data: Any, _: Any) -> Any:
            name = data.get("kind") if isinstance(data, dict) else None
            if name not in members:
                raise ValueError(f"kind is {name!r}: wanted one of {', '.join(members)}")
            return converter.structure({key: value for key, value in data.items() if key != "kind"}, members[name])

        return structure

    converter.register_structure_hook_factory(is_closed_union, read)
    converter.register_unstructure_hook_factory(is_closed_union, write)
    return converter


def to_dict(settings: Any, kind: Any = None) -> Any:
    """Plain dicts, lists and numbers of a settings object; members of a union carry their class name as `kind`."""
    return _plain(_converter().unstructure(settings, unstructure_as=kind))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def from_dict(data: Any, kind: type[T]) -> T:
    """The settings object that `to_dict` wrote.

    Raises:
        ConfigError: for an unknown key, a wrong type or a value out of range, with its place.
    """
    try:
        return _converter().structure(data, kind)
    except Exception as error:
        lines = cattrs.transform_error(error, path=kind.__name__, format_exception=_reason)
        raise ConfigError("; ".join(lines)) from error


def _reason(error: BaseException, kind: Any) -> str:
    """Why a value was refused: the message of the check that refused it, or cattrs's own words."""
    said = str(error)
    return said if isinstance(error, (ValueError, TypeError)) and said else format_exception(error, kind)


def save_yaml(settings: Any, path: str | os.PathLike[str]) -> None:
    """Write settings as YAML, whole or not at all."""
    write_atomically(path, yaml.safe_dump(to_dict(settings), sort_keys=False).encode())


def load_yaml(path: str | os.PathLike[str]) -> Any:
    """The plain data of a YAML file.

    Raises:
        ConfigError: if the file is not readable as plain YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Where two settings' plain data differ: "sde.beta_max: 20.0 there, 15.0 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys((*old, *new)))
        lines = (differences(old.get(key), new.get(key), f"{place}.{key}".lstrip(".")) for key in keys)
        return [line for group in lines for line in group]
    return [] if old == new else [f"{place}: {old} there, {new} now"]


# --- The command line ---


def run(main: Callable[[T], int | None], kind: type[T], description: str | None = None) -> None:
    """Parse flags into `kind`, run main on it and exit: 0 done, 1 failed, 2 wrong flags, 130 interrupted.

    A ValueError, TypeError or OSError is what a user can mend: it prints as one paragraph. `--debug` shows the
    traceback.
    """
    import tyro

    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        settings = tyro.cli(
            kind,
            args=[argument for argument in arguments if argument != "--debug"],
            description=description,
            registry=_registry(),
            config=(tyro.conf.AvoidSubcommands,),
        )
        code = main(settings) or 0
    except BrokenPipeError:  # whoever read our output, `head` say, is gone
        code = 0
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}\n(add --debug for the traceback)", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        code = 130
    sys.exit(code)


def _registry() -> Any:
    """tyro's rules, with a Scalar read as a float."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def scalar(info: tyro.constructors.PrimitiveTypeInfo):
        if info.type != Scalar:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda args: float(args[0]),
            is_instance=lambda value: isinstance(value, (int, float, jax.Array)),
            str_from_instance=lambda value: [str(float(value))],
        )

    return registry
