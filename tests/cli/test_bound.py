"""`scoresde likelihood --bound`: the library's bound of a run's examples, resumed, and beside the
exact likelihood of the same ones."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import LEVELS, untrained

import scoresde as sd
from scoresde import checks
from scoresde.data.prepare import BinCentres
from scoresde.keys import example_keys
from scoresde.likelihood import set_bound
from scoresde.train.load import open_run
from scoresde.train.model_settings import ModelSettings

BINS = BinCentres(17)
K = np.random.default_rng(0).integers(0, 17, (20, 2))
LEARNT = ModelSettings(
    sd.LearntVP(sd.MonotoneGamma(-8.0, 5.0, learn_ends=True, hidden=8)),
    sd.MLPConfig(width=16, depth=1),
    sd.EDM(0.5),
)


@pytest.fixture
def of_centres(tmp_path):
    """An untrained run on the centres of bins, and a file of its integers."""
    np.save(tmp_path / "k.npy", K)
    return untrained(tmp_path / "run", LEARNT, (2,), BINS), ["--data", str(tmp_path / "k.npy")]


def test_it_is_that_of_the_library(of_centres, json_of, call):
    run, data = of_centres
    flags = [*data, "--bound", "--times", "6", "--num", "12", "--seed", "4", "--batch-size", "5"]
    about = json_of("likelihood", run, *flags)
    model = open_run(run).model
    bound = sd.elbo(jax.random.key(4), model, K[:12], 17, num_draws=6)

    bits = np.asarray(bound.bits_per_dim(2))
    assert about["bound_bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-4)
    assert about["bound_bits_per_dim_stderr"] == pytest.approx(
        bits.std(ddof=1) / np.sqrt(12), rel=1e-3
    )
    assert about["bound_nats"] == pytest.approx(float(np.mean(bound.nll)), rel=1e-4)
    for name in ("prior", "diffusion", "reconstruction"):
        wanted = float(np.mean(getattr(bound, name))) / (2 * np.log(2.0))
        assert about[f"{name}_bits_per_dim"] == pytest.approx(wanted, rel=1e-4)
    assert (about["examples"], about["failed"], about["steps"], about["t_min"]) == (12, 0, None, 0)

    # In steps it is another file, and larger.
    steps = json_of("likelihood", run, *flags, "--steps", "3")
    assert steps["bound_nats"] > about["bound_nats"]
    assert steps["rows"] != about["rows"]

    code, out, _ = call("likelihood", run, *flags)
    assert code == 0
    assert "bound bits per dim" in out


def test_it_resumes_from_its_rows(of_centres, json_of):
    """Cut anywhere, and computed again from there: the same figures."""
    run, data = of_centres
    flags = [*data, "--bound", "--times", "3", "--batch-size", "6"]
    whole = json_of("likelihood", run, *flags)
    rows = Path(whole["rows"])
    text = rows.read_text()
    lines = text.splitlines(keepends=True)

    damaged = lines[2].replace('"nll": [', '"nll": [1', 1)
    for changed in (lines[2][:30], damaged):
        rows.write_text("".join(lines[:2]) + changed)
        again = json_of("likelihood", run, *flags)
        assert again | {"seconds": 0} == whole | {"seconds": 0}
    assert json.loads(rows.read_text().splitlines()[1]) == json.loads(lines[1])
    assert len(rows.read_text().splitlines()) == len(lines)


def test_the_exact_likelihood_is_beside_it(of_centres, json_of, call):
    """A network of bin centres is dequantised by the noise of its SDE, unless told otherwise."""
    run, data = of_centres
    exact = json_of("likelihood", run, *data, "--tolerance", "1e-2")
    assert exact["dequantization"]["kind"] == "TruncatedNormalDequantization"
    bound = json_of("likelihood", run, *data, "--bound", "--times", "20")
    assert bound["exact_bits_per_dim"] == exact["bits_per_dim"]
    difference = bound["bound_bits_per_dim"] - exact["bits_per_dim"]
    assert bound["bound_above_exact"] == pytest.approx(difference, abs=1e-4)
    assert bound["bound_above_exact_stderr"] > 0.0

    # A worse one, or one with another dequantisation, does not take its place, nor does damage.
    uniform = json_of("likelihood", run, *data, "--tolerance", "0.1", "--dequantization", "uniform")
    assert uniform["dequantization"]["kind"] == "UniformDequantization"
    (run / "likelihood" / "damaged.json").write_text('{"step": null, "bits_per_dim": null}')
    again = json_of("likelihood", run, *data, "--bound", "--times", "20")
    assert again["exact_bits_per_dim"] == exact["bits_per_dim"]

    # From another folder the run's own results are found too.
    there = json_of("likelihood", run, *data, "--bound", "--times", "20", "--out", run / "other")
    assert there["exact_bits_per_dim"] == exact["bits_per_dim"]
    assert Path(there["rows"]).parent == run / "other"

    # Other examples are not compared.
    fewer = json_of("likelihood", run, *data, "--bound", "--times", "2", "--num", "5")
    assert "exact_bits_per_dim" not in fewer

    code, *_ = call("report", run)
    page = (run / "report.html").read_text()
    assert code == 0
    assert "bound, bits/dim" in page
    assert "above the exact value" in page


@pytest.mark.parametrize("kind", ["centres", "dequantised"])
def test_examples_without_a_bound_are_counted(kind, of_centres, tmp_path, monkeypatch, call):
    """NaN of some examples: left out of the means, and named by their places in the whole set."""
    run, data = of_centres
    if kind == "dequantised":
        settings = ModelSettings(sd.VP(), sd.MLPConfig(width=16, depth=1), sd.EDM(0.5))
        run = untrained(tmp_path / "other", settings, (2,), LEVELS)
    name = "elbo" if kind == "centres" else "variational_bound"
    seen = []

    def bound(*arguments, **options):
        count = len(arguments[2 if kind == "centres" else 3])
        nll = np.arange(len(seen), len(seen) + count, dtype=np.float32)
        nll[np.isin(nll, [3, 7])] = np.nan
        seen.extend(nll)
        checks.warn_of_failures(~np.isnan(nll), "bounds", "a number")
        terms = dict.fromkeys(("prior", "diffusion", "reconstruction"), np.zeros(count))
        return SimpleNamespace(nll=nll, **terms)

    monkeypatch.setattr(set_bound, name, bound)
    flags = [*data, "--bound", "--times", "2", "--batch-size", "5", "--num", "10", "--json"]
    code, out, err = call("likelihood", run, *flags)
    assert code == 0, err
    about = json.loads(out)
    assert (about["failed"], about["failed_examples"]) == (2, [3, 7])
    assert "did not reach" not in err
    entropy = 0.0 if kind == "centres" else 2 * float(LEVELS.entropy)
    assert about["bound_nats"] == pytest.approx(np.nanmean(seen) - entropy)


@pytest.mark.parametrize("kind", ["dequantised", "real"])
def test_other_runs_have_the_bound_of_their_density(kind, tmp_path, json_of):
    """Of dequantised data it is less their entropy: the bits of the integers."""
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=16, depth=1), sd.EDM(0.5))
    prepare = LEVELS if kind == "dequantised" else None
    run = untrained(tmp_path / "run", settings, (2,), prepare)
    x = K if prepare else np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    about = json_of("likelihood", run, "--data", str(tmp_path / "x.npy"), "--bound", "--times", "5")

    model = open_run(run).model
    keys = example_keys(jax.random.key(0), 20)
    key_dequantize, key_draws = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x0 = jnp.asarray(x) if prepare is None else LEVELS(key_dequantize, jnp.asarray(x))
    bound = sd.variational_bound(key_draws, sd.VP(), model, x0, num_times=5)
    if prepare is None:
        assert about["bound_nats"] == pytest.approx(float(np.mean(bound.nll)), rel=1e-3)
    else:
        bits = sd.bits_per_dim(-bound.nll, 2, 17)
        assert about["bound_bits_per_dim"] == pytest.approx(float(np.mean(bits)), rel=1e-3)


def test_one_example_has_no_error_and_t_min_is_part_of_the_name(tmp_path, call, json_of):
    settings = ModelSettings(sd.VE(0.05, 5.0), sd.MLPConfig(width=16, depth=1), sd.EDM(0.5))
    run = untrained(tmp_path / "run", settings, (2,), LEVELS)
    np.save(tmp_path / "k.npy", K[:1])
    flags = ["--data", str(tmp_path / "k.npy"), "--bound", "--times", "4"]
    call("likelihood", run, *flags[:2], "--tolerance", "1e-2")
    code, out, _ = call("likelihood", run, *flags)
    assert code == 0
    assert "exact bits per dim" in out

    # Under VE the bound begins at t = 0, whatever --t-min says.
    late = json_of("likelihood", run, *flags, "--t-min", "0.3")
    assert late["t_min"] == 0.0
    assert late["bound_nats"] == json_of("likelihood", run, *flags)["bound_nats"]


def test_options_of_the_other_are_refused(of_centres, call):
    run, data = of_centres
    for flags, message in (
        (["--bound", "--probes", "3"], "--probes is of the likelihood"),
        (["--bound", "--exact"], "--exact is of the likelihood"),
        (["--times", "3"], "--times is of the bound: leave it out, or add"),
        (["--bound", "--times", "1"], "times = 1"),
    ):
        code, _, err = call("likelihood", run, *data, *flags)
        assert code == 2
        assert message in " ".join(err.replace("│", " ").split())


def test_steps_of_a_density_are_refused(tmp_path, call):
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=16, depth=1), sd.EDM(0.5))
    run = untrained(tmp_path / "run", settings, (2,), LEVELS)
    np.save(tmp_path / "k.npy", K)
    code, _, err = call(
        "likelihood", run, "--data", str(tmp_path / "k.npy"), "--bound", "--steps", "3"
    )
    assert code == 1
    assert "--steps is for networks of integers" in " ".join(err.split())
    assert "leave it out, for the bound in continuous time" in " ".join(err.split())
