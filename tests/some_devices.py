"""A training, samples and likelihoods on some number of devices, in one process or several.

`python some_devices.py DEVICES RUN STEPS SHARD_ABOVE [PORT PROCESSES PROCESS]` prints what it
found, as one line of JSON.
"""

import json
import socket
import sys

import jax
import numpy as np
from flax import nnx

import scoresde as sd


def untrained() -> sd.ScoreModel:
    """Returns a small model, the same in every process."""
    net = sd.MLPConfig(width=32, depth=2, dropout=0.1).build((2,), rngs=nnx.Rngs(0))
    return sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=1.0))


def train(run, steps: int, shard_above: int | None, callbacks=()):
    """Trains a small network for some steps, or resumes it."""
    key = jax.random.key(0)
    data = sd.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.04, 0.04]).sample(key, 256)
    training = sd.Training(
        steps=steps, batch_size=64, log_every=10, validate_every=10, shard_above=shard_above
    )
    return sd.fit(
        key, untrained(), data, training=training, run=run, callbacks=callbacks, progress=False
    )


def evaluate(n: int = 21) -> dict:
    """Returns samples of the untrained model, likelihoods, codes and what they decode to, as lists.

    The weights of a trained one depend on the number of devices in their last digits.
    """
    model = untrained()
    key = jax.random.key(0)
    x = sd.sample(key, sd.DDIM(num_steps=10), model.sde, model, (n, 2), batch_size=4).x
    likelihood = sd.log_likelihood(key, model.sde, model, x, batch_size=4)
    codes = sd.encode(model.sde, model, x).x
    decoded = sd.decode(model.sde, model, codes).x
    found = {"x": x, "log_prob": likelihood.log_prob, "codes": codes, "decoded": decoded}
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def free_port() -> str:
    """Returns a port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def main(devices: int, run: str, steps: int, shard_above: int | None, processes: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    if processes:
        port, count, index = processes
        sd.join_processes(f"127.0.0.1:{port}", int(count), int(index))
    fit = train(run, steps, shard_above)
    weights = jax.tree.leaves(nnx.to_pure_dict(nnx.state(fit.model.net, nnx.Param)))
    found = {
        "devices": jax.device_count(),
        "rows": fit.history,
        "weights": [np.asarray(leaf).tolist() for leaf in weights],
        **evaluate(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    count, folder, last, above, *others = sys.argv[1:]
    main(int(count), folder, int(last), int(above) or None, others)
