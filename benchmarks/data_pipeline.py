"""Whether training waits for its data: Fashion-MNIST's shape, a U-Net on the CPU (or what JAX runs on).

    python benchmarks/data_pipeline.py                   # --fashion: the real images, decoded and cached first

60 000 images of 28×28×1 as `Images`, in memory and memory mapped, train the U-Net of experiments/fashion_vp.py in
batches of 64 by `sd.fit`, dequantised in the step. Reported is the share of step time that the loop waited for the next
batch (`data_wait` of metrics.jsonl; the first row, which holds the compilation, left out), and examples a second: of
training, and of the pipeline alone, which assembles the same batches and puts them on the device with nothing to wait
for. How fast anything is does not depend on what the images show.
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
USUAL = sd.UNetConfig(
    channels=16, multipliers=(1, 2, 2), num_blocks=1, attention_levels=(2,)
)  # as in fashion.py


def sources(folder: Path, fashion: bool, count: int) -> dict[str, Images]:
    """The same images in memory and memory mapped."""
    if fashion:
        pixels = images.fashion_mnist().pixels
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    return {
        "in memory": Images(pixels),
        "memory mapped": Images(np.load(folder / "pixels.npy", mmap_mode="r")),
    }


def train(
    source: Images, net: sd.UNetConfig, batch: int, rows: int, steps_a_row: int
) -> list[dict[str, float]]:
    """Rows of metrics of a short training, without the one that holds the compilation."""
    model = sd.ScoreModel(
        sd.VP(), net.build(source.shape, rngs=nnx.Rngs(0)), sd.EDM(sigma_data=0.7)
    )
    training = sd.Training(
        steps=(rows + 1) * steps_a_row,
        batch_size=batch,
        log_every=steps_a_row,
        validate_every=(rows + 1) * steps_a_row,
    )
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


def alone(source: Images, batch: int, batches: int) -> float:
    """Seconds to assemble so many batches and put them on the device, one after the other."""
    order, mesh = Order(0, len(source), batch), data_mesh(batch)
    order(0)
    start = time.perf_counter()
    for step in range(batches):
        jax.block_until_ready(shard_batch(take(source, order(step)), mesh))
    return time.perf_counter() - start


def main() -> None:
    args = bench.parse(
        __doc__,
        repeats=5,
        flags={
            "--fashion": {
                "action": "store_true",
                "help": "the real images (see experiments/fashion_vp.py)",
            },
        },
    )
    sd.use_cpu_cores()
    batch, net, count, a_row = (8, TINY, 1000, 2) if args.quick else (64, USUAL, 60_000, 10)
    settings = {
        "batch": batch,
        "repeats": args.repeats,
        "images": count,
        "devices": jax.local_device_count(),
    }
    report = bench.Report("data_pipeline", args.quick, settings)
    with TemporaryDirectory() as folder:
        for name, source in sources(Path(folder), args.fashion, count).items():
            rows = train(source, net, batch, args.repeats, a_row)
            step = 1.0 / np.array([row["steps_per_second"] for row in rows])
            wait = np.array([row["data_wait"] for row in rows]) * step
            seconds = np.array([alone(source, batch, a_row) / a_row for _ in range(args.repeats)])
            report.time(f"training step, {name}", step)
            report.time(f"batch assembled, {name}", seconds)
            report.ratio(f"waiting / step time, {name}", wait, step, goal=0.05)
            report.figures[f"examples/s in training, {name}"] = bench.median(batch / step)
            report.figures[f"examples/s of the pipeline alone, {name}"] = bench.median(
                batch / seconds
            )
    report.finish()


if __name__ == "__main__":
    main()
