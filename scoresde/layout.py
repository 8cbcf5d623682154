"""Shapes that look as if their channels were elsewhere than in the last axis, or nowhere.

Every example is (*space, channels). A shape alone does not say which axis is which, so a doubtful
one is asked about: images without a channel axis, (28, 28), would be signals of 28 channels, and
images with channels first, (3, 32, 32), would be 3 pixels high with 32 channels. An array whose
last axis does hold so many channels is passed as `sd.data.ArraySource(array)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

FEWEST_PIXELS = 8
"""A last axis with fewer entries is taken for channels."""

MOST_CHANNELS = 4
"""A first axis with so few entries, before a long last one, is taken for channels."""


def is_doubtful(shape: tuple[int, ...]) -> bool:
    """Returns whether the last axis of an example looks like a part of space.

    So it does in signals less than twice as long as they have channels, and in images and volumes
    whose last two axes are equal or whose first is short; below 8 entries it never does.
    """
    if len(shape) < 2 or shape[-1] < FEWEST_PIXELS:
        return False
    if len(shape) == 2:
        return shape[0] < 2 * shape[-1]
    return shape[-2] == shape[-1] or shape[0] <= MOST_CHANNELS


class Remedy(NamedTuple):
    """What examples of a doubtful shape may be, and what to do then."""

    kind: str
    line: str
    """The line that puts their channels last."""
    shape: tuple[int, ...]
    """The shape of an example after it."""


def remedies(shape: tuple[int, ...], name: str) -> list[Remedy]:
    """Returns what the examples of a doubtful shape may be, the likelier one first."""
    short = [i for i, n in enumerate(shape[:-1]) if n <= MOST_CHANNELS]
    if short:
        return [_channels_last(shape, short[0], name)]

    found = [_channel_added(shape, name)]
    if shape[0] < shape[-1]:
        found.append(_channels_last(shape, 0, name))
    return found


def matching(
    shape: tuple[int, ...], fits: Callable[[tuple[int, ...]], bool], name: str
) -> Remedy | None:
    """Returns the remedy after which examples have a shape that fits, or None."""
    candidates = [_channel_added(shape, name)]
    candidates += [_channels_last(shape, axis, name) for axis in range(len(shape) - 1)]
    return next((remedy for remedy in candidates if fits(remedy.shape)), None)


def builds(shape: tuple[int, ...], config: str, name: str) -> str:
    """Returns the sentences that say, for a doubtful shape, how to mend arrays and network."""
    return " ".join(
        f"For examples {kind} write {line}, and {config}(...).build({mended}, rngs=...)."
        for kind, line, mended in remedies(shape, name)
    )


def _channel_added(shape: tuple[int, ...], name: str) -> Remedy:
    return Remedy("without a channel axis", f"{name}[..., None]", (*shape, 1))


def _channels_last(shape: tuple[int, ...], axis: int, name: str) -> Remedy:
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    line = f"np.moveaxis({name}, {axis + 1}, -1)"
    return Remedy(f"with {shape[axis]} channels in axis {axis + 1}", line, moved)
