"""Whether training waits for its data: images of Fashion-MNIST's shape, and a U-Net.

    python benchmarks/data_pipeline.py
    python benchmarks/data_pipeline.py --fashion      # the real images, decoded and cached first

Hardware: whatever JAX runs on. Goal: the loop waits for at most 0.05 of a step's time.

60 000 images of 28×28×1, in memory and memory mapped, train the U-Net of
experiments/fashion_vp.py by `sd.fit` in batches of 64, dequantised in the step. Speed does not
depend on what they show.

waiting        the share of step time that the loop waited for the next batch: `data_wait` in
               metrics.jsonl, without the first row, which includes compilation
examples/s     of training, and of the pipeline alone, which assembles the same batches and puts
               them on the device without any training
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bench
import jax
import numpy as np
from flax import nnx

import scoresde as sd
from scoresde.data import images
from scoresde.data.images import Images
from scoresde.data.order import Order
from scoresde.data.source import take
from scoresde.parallel.mesh import data_mesh, shard_batch

TINY = sd.UNetConfig(channels=4, num_blocks=1, multipliers=(1,), attention_levels=())
USUAL = sd.UNetConfig(channels=16, num_blocks=1, multipliers=(1, 2, 2), attention_levels=(2,))
"""The network of experiments/fashion_vp.py."""

FLAGS = {
    "--fashion": {
        "action": "store_true",
        "help": "the real images (see experiments/fashion_vp.py)",
    },
}


def main() -> None:
    args = bench.parse(__doc__, repeats=5, flags=FLAGS)
    sd.use_cpu_cores()

    batch = 8 if args.quick else 64
    net = TINY if args.quick else USUAL
    count = 1000 if args.quick else 60_000
    steps_per_row = 2 if args.quick else 10

    settings = {
        "batch": batch,
        "repeats": args.repeats,
        "images": count,
        "devices": jax.local_device_count(),
    }
    report = bench.Report("data_pipeline", args.quick, settings)
    with TemporaryDirectory() as folder:
        for name, source in sources(Path(folder), args.fashion, count).items():
            measure(report, name, source, net, batch, args.repeats, steps_per_row)
    report.finish()


def sources(folder: Path, fashion: bool, count: int) -> dict[str, Images]:
    """Returns the same images in memory and memory mapped."""
    if fashion:
        pixels = images.fashion_mnist().pixels
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)

    np.save(folder / "pixels.npy", pixels)
    mapped = np.load(folder / "pixels.npy", mmap_mode="r")
    return {"in memory": Images(pixels), "memory mapped": Images(mapped)}


def measure(
    report: bench.Report,
    name: str,
    source: Images,
    net: sd.UNetConfig,
    batch: int,
    repeats: int,
    steps_per_row: int,
) -> None:
    """Reports training on a source, and the pipeline alone."""
    rows = train(source, net, batch, repeats, steps_per_row)
    step = 1.0 / np.array([row["steps_per_second"] for row in rows])
    wait = step * np.array([row["data_wait"] for row in rows])

    alone = [assemble(source, batch, steps_per_row) / steps_per_row for _ in range(repeats)]
    seconds = np.array(alone)

    report.time(f"training step, {name}", step)
    report.time(f"batch assembled, {name}", seconds)
    report.ratio(f"waiting / step time, {name}", wait, step, goal=0.05)
    report.figures[f"examples/s in training, {name}"] = bench.median(batch / step)
    report.figures[f"examples/s of the pipeline alone, {name}"] = bench.median(batch / seconds)


def train(
    source: Images, net: sd.UNetConfig, batch: int, rows: int, steps_per_row: int
) -> list[dict[str, float]]:
    """Returns rows of metrics of a short training, without the one that includes compilation."""
    steps = (rows + 1) * steps_per_row
    training = sd.Training(
        steps=steps, batch_size=batch, log_every=steps_per_row, validate_every=steps
    )

    network = net.build(source.shape, rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), network, sd.EDM(sigma_data=0.7))
    fit = sd.fit(
        jax.random.key(0),
        model,
        source,
        validation=0.0,
        prepare=sd.UniformDequantization(),
        training=training,
        progress=False,
    )
    return fit.history[1:]


def assemble(source: Images, batch: int, count: int) -> float:
    """Returns the seconds that it takes to assemble `count` batches and put each on the device."""
    mesh = data_mesh(batch)
    order = Order(0, len(source), batch)
    order(0)  # the first call shuffles

    start = time.perf_counter()
    for step in range(count):
        jax.block_until_ready(shard_batch(take(source, order(step)), mesh))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
