"""Bytes of a training step on many devices, compiled for them and not run.

    python benchmarks/scaling.py                     # CIFAR-10 NCSN++ on 8, 64 and 256 devices
    python benchmarks/scaling.py --network ffhq      # the network of FFHQ, 256×256
    python benchmarks/scaling.py --devices 8,64

Hardware: any; the devices are virtual ones of the CPU. Compiling takes minutes for each number of
devices, in a process of its own.

Printed for each number n, with replicated and with sharded parameters
(`sd.Training(shard_above=65536)`):

    state           bytes a device keeps between steps: parameters, their average and two moments
    collectives     bytes a device sends in one step: (n - 1) / n of each array that is collected or
                    whose gradient is summed into shards, twice that where it is summed into wholes
    from scratch    bytes of the arrays that the step computes, by XLA's plan for the CPU, whose
                    scheduler does not save memory as that of a GPU does
    intensity       floating-point operations for each byte sent
    examples        those a device must take for computing to take as long as sending

The operations are those that XLA counts in the compiled step. A device is taken for an H100 that
does 40 % of 989 TFLOP/s (bfloat16, dense), and sends 450 GB/s by NVLink, within a machine, or
50 GB/s by InfiniBand (400 Gb/s). Gradients and parameters are float32 here.

XLA for the CPU sums all gradients into wholes, and cuts those of sharded parameters afterwards. XLA
for the GPU sums these into shards, and so they are counted.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any

import bench
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import scoresde as sd
from scoresde.originals.configurations import ORIGINALS
from scoresde.parallel.mesh import mesh_of, replicated
from scoresde.parallel.sharded_state import collector, state_shardings
from scoresde.train.state import Skeleton, init_state
from scoresde.train.step import make_step

NETWORKS = {
    "cifar10": ("ve/cifar10_ncsnpp_continuous", 32, 4),
    "ffhq": ("ve/ffhq_256_ncsnpp_continuous", 256, 1),
}
"""For each network: the published configuration, the size of images, examples a device."""

SHARD_ABOVE = 65536
H100 = 0.4 * 989e12
"""Floating-point operations a second of one device."""
LINKS = {"NVLink": 450e9, "InfiniBand": 50e9}
"""Bytes a second that one device sends."""

COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all)(-start)?\("
)
ARRAY = re.compile(r"(?P<kind>pred|[subf]+\d+)\[(?P<shape>[\d,]*)\]")

FLAGS = {
    "--network": {"choices": [*NETWORKS], "default": "cifar10", "help": "(default cifar10)"},
    "--devices": {"default": "8,64,256", "help": "numbers of devices (default 8,64,256)"},
    "--shard-above": {"type": int, "default": SHARD_ABOVE, "help": f"(default {SHARD_ABOVE})"},
    "--only": {"help": "for the processes that this one starts"},
}


def main() -> None:
    args = bench.parse(__doc__, repeats=1, flags=FLAGS)
    if args.only is not None:
        devices, above = map(int, args.only.split(","))
        print(json.dumps(compiled(args.network, args.quick, devices, above or None)))
        return

    numbers = [2, 4] if args.quick else [int(number) for number in args.devices.split(",")]
    above = 256 if args.quick else args.shard_above
    settings = {"network": args.network, "devices": numbers, "shard above": above}
    report = bench.Report("scaling", args.quick, settings)
    for number in numbers:
        for limit in (0, above):
            found = in_a_process(number, limit)
            name = f"{number} devices, {'sharded' if limit else 'replicated'}"
            report.figures |= {f"{name}, {key}": value for key, value in found.items()}
    report.finish()


def in_a_process(devices: int, above: int) -> dict[str, Any]:
    """Returns what `compiled` finds in a new process, which has so many devices."""
    command = [sys.executable, *sys.argv, "--only", f"{devices},{above}"]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


# --- One step, compiled ---


def compiled(network: str, quick: bool, devices: int, above: int | None) -> dict[str, Any]:
    """Returns the figures of one step on so many devices."""
    jax.config.update("jax_disable_most_optimizations", True)  # of LLVM: nothing is run
    name, size, share = NETWORKS[network]
    original = ORIGINALS[name]
    net, size = (sd.UNetConfig(channels=8, num_blocks=1), 8) if quick else (original.net, size)
    shape = (size, size, 3)
    model = sd.ScoreModel(
        original.sde, net.build(shape, rngs=nnx.Rngs(0)), original.parameterization
    )

    # The state and a batch as shapes, which need no memory.
    training = sd.Training(batch_size=share * devices, shard_above=above)
    skeleton, params, constants = Skeleton.split(model)
    state = jax.eval_shape(
        partial(init_state, optimizer=training.transformation()), params, constants
    )
    mesh = mesh_of(jax.devices())
    shardings = state_shardings(state, mesh, above)
    state = jax.tree.map(placed, state, shardings)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    x = placed(jax.ShapeDtypeStruct((share * devices, *shape), jnp.float32), rows)
    key = placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))

    collect = None if above is None else collector(shardings["params"], mesh)
    step = make_step(
        skeleton, training, sd.objectives.DenoisingScoreMatching(), None, collect=collect
    )
    jit = jax.jit(step, out_shardings=(shardings, replicated(mesh)), donate_argnums=0)
    program = jit.lower(state, key, (x, None)).compile()

    memory = program.memory_analysis()
    cost, text = program.cost_analysis(), program.as_text()
    assert memory is not None and cost is not None and text is not None
    cut = sum(
        math.prod(array.shape) * array.dtype.itemsize
        for array in jax.tree.leaves(state["params"])
        if not array.sharding.is_fully_replicated
    )
    sent = bytes_sent(text, devices, cut)
    figures = {
        "state, MB": memory.alias_size_in_bytes / 1e6,
        "collectives, MB": sent / 1e6,
        "from scratch, MB": memory.temp_size_in_bytes / 1e6,
        "TFLOP an example": cost["flops"] / share / 1e12,
        "intensity, FLOP a byte": cost["flops"] / sent,
    }
    for link, speed in LINKS.items():
        figures[f"examples, {link}"] = share * (sent / speed) / (cost["flops"] / H100)
    return figures


def placed(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def bytes_sent(program: str, devices: int, cut: int) -> float:
    """Returns the bytes that the collectives of a compiled program make a device send.

    Of an array of B bytes, an algorithm that sends the least sends (n - 1) / n B to collect it or
    to sum it into shards, and twice that to sum it into wholes. cut: the bytes of those gradients
    that the program sums into wholes and cuts.
    """
    total = -float(cut)
    for match in COLLECTIVE.finditer(program):
        size = sum(map(size_of, ARRAY.finditer(match["result"])))
        total += 2 * size if match["kind"] == "all-reduce" else size
    return total * (devices - 1) / devices


def size_of(array: re.Match[str]) -> int:
    """Returns the bytes of an array that is written as f32[128,3]."""
    bits = 8 if array["kind"] == "pred" else int(re.sub(r"\D", "", array["kind"]))
    return bits // 8 * math.prod(int(n) for n in array["shape"].split(",") if n)


if __name__ == "__main__":
    main()
