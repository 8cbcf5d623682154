"""Settings objects from the command line: flags for fields, `sde:ve` for the members of a union."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax

from scoresde.cli.exit import UsageError, exit_code, leave
from scoresde.cli.help import _by_name, _listing, _meant, _wrapped
from scoresde.runs.settings import union_members
from scoresde.types import Scalar

T = TypeVar("T")


def run(main: Callable[[T], int | None], kind: type[T], description: str | None = None) -> NoReturn:
    """Read the command line into `kind`, run main on it and exit: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    interrupted = "interrupted; the same command goes on from the last checkpoint, if there is one."
    leave(
        exit_code(
            lambda flags: main(parse(kind, flags, description=description)),
            sys.argv[1:],
            interrupted,
        )
    )


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    prog: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] = {},
    hidden: Collection[str] = (),
    footer: str = "",
) -> T:
    """Flags into settings; fields without a default are positional. `defaults` go before the class's own, the flags of
    `hidden` fields do not exist. footer: the last line of the description.

    `sde:ve`, anywhere among the flags, puts a VE where a union field's default stood, `sampler.grid:uniform-log-snr`
    likewise one level down, whatever the order; flags such as `--sde.sigma-max 10` set the fields of what is there.

    Raises:
        UsageError: for a choice that does not exist, with those that do, or settings that do not go together.
        SystemExit: with code 2 after tyro has said what else is wrong; with 0 after --help.
    """
    import tyro
    from tyro import conf

    fields = dataclasses.fields(typing.cast(Any, kind))
    values = {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }
    try:
        values, flags = _choose(kind, values | dict(defaults), arguments)
        text = _wrapped(inspect.cleandoc(description or kind.__doc__ or ""))
        if unions := _unions(kind, values):
            text += f"\n\nChoices, anywhere among the options:\n{_listing(unions)}"
        text += f"\n\n{_wrapped(footer)}" if footer else ""
        if {"-h", "--help"} & {*flags}:  # tyro would join its lines
            print(f"{text}\n")
        settings = tyro.cli(
            _with_defaults(kind, values, dict.fromkeys(hidden, conf.Suppress)),
            prog=prog,
            args=flags,
            description="",
            registry=_registry(),
            config=(
                conf.AvoidSubcommands,
                conf.PositionalRequiredArgs,
                conf.PositionalMetavarFromFieldName,
            ),
        )
        return kind(**vars(settings))
    except (ValueError, TypeError) as error:  # of a choice, or of settings that do not go together
        raise UsageError(str(error)) from error


def _with_defaults(kind: Any, values: Mapping[str, Any], marks: Mapping[str, Any]) -> Any:
    """The same fields with other defaults. (tyro asks an instance for every field, and loses a partial's types.)"""
    hints = typing.get_type_hints(kind)
    fields = [
        (name, typing.Annotated[hints[name], marks.get(name)], value)
        for name, value in values.items()
    ]
    frozen = kind.__dataclass_params__.frozen
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=frozen)


def _choose(
    kind: Any, values: dict[str, Any], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The values after every `place:member` among the arguments, and the other arguments."""
    chosen: dict[str, str] = {}
    others = []
    for word in arguments:
        place, colon, member = word.partition(":")
        place = place.replace("-", "_")
        if not colon or not dataclasses.is_dataclass(values.get(place.split(".")[0])):
            others.append(word)
        elif chosen.setdefault(place, member) != member:
            raise UsageError(f"{place} is chosen twice, {chosen[place]} and {member}: keep one.")
    for place in sorted(
        chosen, key=lambda place: place.count(".")
    ):  # outer ones first: they decide what lies within
        unions = _unions(kind, values)
        if place not in unions:
            raise UsageError(
                f"{place}:{chosen[place]} is no choice here. There are:\n{_listing(unions)}"
            )
        names = _by_name(unions[place])
        wanted = chosen[place].replace("-", "").lower().removesuffix("config")
        if wanted not in names:
            raise UsageError(
                f"{place}:{chosen[place]} is no choice: {_meant(place, wanted, unions[place])}"
            )
        values = _put(values, place.split("."), names[wanted])
    unions = _unions(kind, values)
    for word, following in itertools.pairwise([*others, ""]):
        option, _, member = word.partition("=")
        place = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and place in unions:  # --sampler heun, or --sampler=heun
            wanted = (member or following).replace("-", "").lower()
            raise UsageError(
                f"{option} is a choice, not an option: {_meant(place, wanted, unions[place])}"
            )
    return values, others


def _put(values: Mapping[str, Any], place: list[str], member: type) -> dict[str, Any]:
    """The values with a member at the place; one that is there already keeps its settings."""
    name, *rest = place
    value = values[name]
    if rest:
        value = dataclasses.replace(value, **_put(vars(value), rest, member))
    return {**values, name: value if rest or type(value) is member else member()}


def _unions(kind: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[type, ...]]:
    """The union fields of settings with these values, by their dotted place, and their members."""
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        value = values.get(name)
        if members := union_members(hint):
            found[prefix + name] = members
        if (members or dataclasses.is_dataclass(hint)) and dataclasses.is_dataclass(value):
            found |= _unions(type(value), vars(value), f"{prefix}{name}.")
    return found


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
