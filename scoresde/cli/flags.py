"""Settings objects from the command line: every field of a dataclass is an option."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax

from scoresde.cli import help
from scoresde.cli.choices import choose, unions
from scoresde.cli.exit import UsageError, exit_code, leave
from scoresde.types import Scalar

T = TypeVar("T")


def run_script(
    main: Callable[[T], int | None], experiment: T | type[T], description: str | None = None
) -> NoReturn:
    """Runs `main` on the settings of an experiment, and ends the process.

    Options on the command line replace the experiment's own settings, or the defaults of its
    class. The exit code is what `main` returns, or 0 when it is done, 1 when it failed, 2 for wrong
    use, 130 after Ctrl-C, 143 after SIGTERM.
    """
    kind: type[T]
    if isinstance(experiment, type):
        kind = experiment
        defaults = {}
    else:
        kind = type(experiment)
        defaults = vars(experiment)

    code = exit_code(
        lambda words: main(parse(kind, words, description=description, defaults=defaults)),
        sys.argv[1:],
        interrupted=(
            "interrupted; run the same command again to resume from the last checkpoint, "
            "if there is one."
        ),
    )
    leave(code)


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
    """Returns settings of type `kind`, a dataclass, read from the command line's arguments.

    Every field is an option, and a field without a default is positional. Options such as
    `--sde.sigma-max 10` set fields of fields. A choice such as `sde:ve` replaces the default of a
    union field by another member, and `sampler.grid:uniform-log-snr` does so one level down.
    Choices and options may come in any order.

    prog: the program's name in --help. description: the text of --help, by default the docstring
    of `kind`; footer: its last line. defaults: values that replace the defaults of `kind`.
    hidden: fields that have no option here.

    Raises:
        UsageError: if a choice does not exist, or the settings do not go together.
        SystemExit: with code 2 after tyro has reported any other mistake; with 0 after --help.
    """
    import tyro
    from tyro import conf

    values = _field_defaults(kind) | dict(defaults)
    try:
        values, options = choose(kind, values, arguments)

        # Printed here, because tyro would join the lines of the list.
        if {"-h", "--help"} & {*options}:
            text = help.page(description or kind.__doc__ or "", unions(kind, values), footer)
            print(f"{text}\n")

        settings = tyro.cli(
            _with_defaults(kind, values, dict.fromkeys(hidden, conf.Suppress)),
            prog=prog,
            args=options,
            description="",
            registry=_registry(),
            config=(
                conf.AvoidSubcommands,
                conf.PositionalRequiredArgs,
                conf.PositionalMetavarFromFieldName,
                conf.SuppressFixed,  # what only Python can say, such as a schedule's weights
            ),
        )
        return kind(**vars(settings))

    except (ValueError, TypeError) as error:  # from the settings' own checks
        raise UsageError(str(error)) from error


def _field_defaults(kind: Any) -> dict[str, Any]:
    """Returns the default of every field that has one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def _with_defaults(kind: Any, values: Mapping[str, Any], marks: Mapping[str, Any]) -> Any:
    """Returns a subclass of `kind` with other defaults, and tyro's marks on some fields.

    Other ways to give tyro defaults fail: with an instance it asks for every field, and with a
    functools.partial it loses the types.
    """
    hints = typing.get_type_hints(kind)
    fields = []
    for name, value in values.items():
        hint = typing.Annotated[hints[name], marks.get(name)]
        fields.append((name, hint, value))

    frozen = kind.__dataclass_params__.frozen
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=frozen)


def _registry() -> Any:
    """Returns tyro's rules, and one more that reads a Scalar as a float."""
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
