"""The one edge of everything that works on many examples: sampling, likelihoods, codes, bounds.

A public function checks what it alone knows and calls `per_example` with a compiled core, which
sees plain arrays. Done here, once, for all of them: checks of (sde, score, cond), the precision,
one random key per example, the score's weights as arguments of the compiled program, the processes
that share the rows, chunks of one shape, the local devices, and the names of the rows that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys
from scoresde.parallel.arguments import as_argument, settings_of
from scoresde.parallel.held import move_out
from scoresde.parallel.mesh import gather, spread
from scoresde.parallel.processes import are_together
from scoresde.parallel.shared_rows import (
    check_same_call,
    failing_together,
    of_all_processes,
    own_share,
)
from scoresde.parallel.watch import together
from scoresde.precision import check_float64, in_float64
from scoresde.sde.base import SDE, are_alike, check_sde
from scoresde.types import Cond, Key

Core = Callable[..., Any]
"""(settings, sde, score, keys, rows, cond) → a pytree whose leaves have the batch axis first,
compiled once per shape by `eqx.filter_jit`; settings is hashable and static."""


def per_example(
    core: Core,
    settings: Any,
    key: Key | None,
    sde: SDE,
    score: Any,
    rows: PyTree,
    cond: Cond,
    batch: int,
    *,
    float64: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
    what: str = "examples",
    goal: str = "their end",
    advice: str = checks.LOOSER,
) -> Any:
    """Returns `core(settings, sde, score, keys, rows, cond)` for all `batch` examples.

    score: a ScoreFn, or what holds one. rows: a pytree of arrays (batch, ...). batch_size: examples
    a chunk, all at once if None. progress: whether to show a bar over chunks. what, goal: name the
    examples, and what a failed one did not reach. advice: what to try then. Example i depends on
    (key, i) alone, not on how the batch is cut. Several processes share the rows, and each returns
    all of them.

    Raises:
        TypeError: if sde is not an SDE.
        ValueError: if a condition does not have one row per example, a label is not one of the
            network's classes, there is no example, float64 is not possible here, or the processes
            call with different arguments.
        RuntimeError: if one process calls, and the others do not, or another one fails.
    """
    check_sde(sde)
    checks.condition(cond, batch)
    check_score(sde, score, cond, batch)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    if batch == 0:
        raise ValueError("there is no example: the batch axis has length 0.")
    if float64:
        check_float64(score, rows)

    with jax.enable_x64(True) if float64 else nullcontext():
        if float64:
            sde, score, rows, cond = in_float64((sde, score, rows, cond))

        score, cond = move_out(score, cond, batch)
        shared = (settings, sde, as_argument(score))
        examples = (None if key is None else example_keys(key, batch), rows, cond)

        known = is_concrete(*_arrays((shared, examples)), jnp.zeros(()))  # a tracer under jit
        shares = known and are_together()
        with together() if shares else nullcontext():
            own = batch
            if shares:
                check_same_call(shared, examples, batch, what)
                examples, own = own_share(examples, batch)

            with failing_together(what) if shares else nullcontext():
                devices = jax.local_device_count() if known else 1
                size = chunk_size(own, batch_size, devices)
                if size == own and devices == 1:
                    out = core(*shared, *examples)
                else:
                    results = []
                    hidden = not progress or jax.process_index() > 0
                    for part in _chunks(examples, own, size, None if hidden else what):
                        if devices == 1:
                            results.append(core(*shared, *part))
                        else:
                            sharded, part = spread(shared, part)
                            results.append(gather(core(*sharded, *part)))
                    out = _joined(results, own)

            if shares:
                out = of_all_processes(out, batch)

    checks.warn_of_failures(getattr(out, "success", None), what, goal, advice)
    return out


# --- Chunks ---


def chunk_size(batch: int, batch_size: int | None, devices: int) -> int:
    """Returns the size of a chunk, a multiple of the number of devices that share it.

    Chunks are of one size, so that one shape is compiled, and as equal as possible: 65 examples in
    chunks of at most 64 are 33 and 32. Devices share a chunk where every argument is known now.
    """
    most = batch if batch_size is None else min(batch_size, batch)
    number_of_chunks = -(-batch // most)
    size = -(-batch // number_of_chunks)
    return -(-size // devices) * devices if size >= devices else size


def _arrays(tree: PyTree) -> list[Any]:
    """Returns the arrays of a tree, and the tracers among the fields of plain settings objects."""
    leaves = jax.tree.leaves(tree)
    fields = [value for leaf in leaves for value in settings_of(leaf)]
    return [leaf for leaf in (*leaves, *fields) if eqx.is_array(leaf)]


def _chunks(examples: PyTree, batch: int, size: int, label: str | None) -> Iterator[PyTree]:
    """Yields the chunks; the last one is padded with copies of the last example."""
    hidden = label is None or size >= batch
    for start in tqdm(range(0, batch, size), desc=label, disable=hidden, unit="chunk"):
        index = np.minimum(np.arange(start, start + size), batch - 1)
        yield jax.tree.map(lambda a, index=index: a[index], examples)


def _joined(results: list[PyTree], batch: int) -> PyTree:
    """Joins the chunks along the batch axis without the padding; scalars are those of the last
    chunk."""

    def join(*leaves):
        return jnp.concatenate(leaves)[:batch] if jnp.ndim(leaves[0]) else leaves[-1]

    return jax.tree.map(join, *results)


# --- Checks ---


def check_score(sde: SDE, score: Any, cond: Cond, batch: int) -> None:
    """Warns if the score was made for another SDE.

    Raises:
        ValueError: as the score's own `check_cond`, if it has one: for a condition that it does not
            take, or a label that is not one of its classes.
    """
    own = getattr(score, "sde", None)
    if isinstance(own, SDE) and not are_alike(own, sde):
        checks.warn(
            f"the score belongs to {own}, but is used under {sde}: pass the same SDE, the "
            "score's .sde."
        )

    check_cond = getattr(score, "check_cond", None)
    if check_cond is not None:
        check_cond(cond, batch)
