"""Everything works with 64 bits, strict promotion and a search for NaN, as it does without.

A feature is a small use of the library. By default every third one runs once with all flags
together, in float32 or float64 in turn. The slow tests run all of them in both precisions, and
under one flag at a time, where each must also give what it gives without flags, to rounding.
"""

import contextlib
import dataclasses
import itertools
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import own_sampler
import pytest
from families import FINITE, PARAMETERIZATIONS, PREDICTORS, PROCESSES
from flax import nnx
from guided_cases import GUIDED, guided

import scoresde as sd
from scoresde.data.prepare import RandomFlip, RandomShift, Scale
from scoresde.likelihood.dataset import likelihood_of_set
from scoresde.train.state import Skeleton, init_state
from scoresde.train.step import make_step, make_validation

FLAGS = {
    "promotion": partial(jax.numpy_dtype_promotion, "strict"),
    "rank": partial(jax.numpy_rank_promotion, "raise"),
    "nans": partial(jax.debug_nans, True),
    "x64": partial(jax.enable_x64, True),
}
KEY = jax.random.key(0)
FEATURES = {}


def feature(*choices):
    """Registers a function of (choice, dtype) for every choice."""

    def register(function):
        for choice in choices:
            FEATURES[f"{function.__name__}-{choice}"] = partial(function, choice)
        return function

    return register


@contextlib.contextmanager
def under(*flags):
    with contextlib.ExitStack() as stack:
        for flag in flags:
            stack.enter_context(FLAGS[flag]())
        yield


def mixture(dtype):
    """Two Gaussians in the plane, in this precision."""
    means, covs, weights = [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09], [0.3, 0.7]
    return sd.GaussianMixture(*(jnp.asarray(a, dtype) for a in (means, covs, weights)))


def points(dtype):
    return mixture(dtype).sample(KEY, 3)


# --- Processes, parameterisations, chains ---


@feature(*PROCESSES)
def process(name, dtype):
    sde = PROCESSES[name]
    mix = mixture(dtype)
    score = mix.score(sde)
    x = points(dtype)
    of_time = [sde.log_alpha, sde.variance, sde.alpha, sde.sigma, sde.log_snr]
    of_time += [sde.drift_rate, sde.squared_diffusion, sde.diffusion, sde.reverse(score).diffusion]

    out = []
    last = 0.9 if sde.ends_in_noise else 1  # f and g are infinite at 1
    for t in (0.5, last, jnp.asarray([0.2, 0.5, last], dtype)):
        out += [function(t) for function in of_time]
        out += [sde.time_from_log_snr(sde.log_snr(t)), sde.drift(x, t), *sde.marginal_prob(x, t)]
        out += [*sde.transition(0.0, t), *sde.transition(0.1, t), *sde.transition(t, t)]
        out += [sde.reverse(score).drift(x, t), sde.probability_flow(score)(x, t)]
        out += [sd.denoise(sde, score, x, t), sd.denoise(sde, lambda x, t: -x, x, t)]
        out += [score(x, t), score.divergence(x, t), mix.log_prob(sde, x, t)]
    assert sd.denoise(sde, score, x, 0.5).dtype == sde.drift(x, 0.5).dtype == dtype
    out += [sde.alpha(0.0), sde.sigma(0.0), sde.diffusion(0.0), mix.log_prob(sde, x, 0.0)]
    out += [*sde.transition(0.0, 0.0), sde.time_from_log_snr(sde.log_snr(0.0))]
    assert sde.log_snr(0.0) > 5.0  # infinite, but for VE
    out += [sde.prior_std(), sde.prior_log_prob(x), sde.prior_kl(x), mix.mean(), mix.cov()]
    return out


@feature("full", "diagonal", "isotropic")
def covariance(kind, dtype):
    """Means and x of two precisions, as a mixture made of lists has with 64 bits."""
    covs = {"full": [[0.04, 0.01], [0.01, 0.09]], "diagonal": [0.04, 0.09], "isotropic": 0.1}
    mix = sd.GaussianMixture([[-1, 0], [1, 0]], [covs[kind]] * 2)
    score = mix.score(sd.VP())
    x = points(dtype)
    mix.sample(KEY, 3)
    out = [mix.log_prob(sd.VP(), x, 0.5), score(x, 0.5), score.denoise(x, 0.5)]
    return [*out, score.divergence(x, 0.5), mix.cov()]


@feature(*PARAMETERIZATIONS)
def parameterization(name, dtype):
    sde = sd.SubVP()
    own = PARAMETERIZATIONS[name]
    model = sd.ScoreModel(sde, lambda x, t: x, own)
    x = points(dtype)
    t = jnp.asarray([0.1, 0.5, 1.0], dtype)
    loss = sd.dsm_loss(KEY, sde, model, x, t, sd.weightings.Likelihood())
    return model(x, t), model.denoise(x, 0.5), loss, sd.convert(x, x, t, sde, own, sd.Velocity())


@feature("ddpm", "cosine", "ncsn")
def chain(name, dtype):
    chains = {
        "ddpm": sd.DDPM.from_sde(sd.VP(), 30),
        "cosine": sd.DDPM.cosine(10),
        "ncsn": sd.NCSN.from_sde(sd.VE(), 5),
    }
    chain = chains[name]
    x = points(dtype)

    @jax.jit
    def steps(i):
        out = [*chain.marginal(x, i), *chain.transition(x, i), *chain.posterior(x, x, i)]
        out += [*chain.ancestral(x, x, i), *chain.ancestral(x, x, i, "beta")]
        out += [chain.loss(KEY, lambda x, i: 0.5 * x, x, i)]
        return [*out, chain.loss(KEY, lambda x, i: 0.5 * x, x, i, "bound", "score")]

    sde = chain.to_sde(exact=True)
    model = chain.model(lambda x, i: 0.5 * x)
    noise = chain.noise(sde, mixture(dtype).score(sde))
    out = [*chain.marginal(x, 2), noise(x, 2), model(x, 0.5), model.denoise(x, 0.5)]
    out += [sde.drift(x, 0.5), *sde.marginal_prob(x, 0.5)]
    return steps(jnp.asarray([0, 2, 4])), out


# --- Samplers ---

GRIDS = {
    "uniform": sd.grids.Uniform(),
    "quadratic": sd.grids.Quadratic(),
    "log_snr": sd.grids.UniformLogSNR(),
    "karras": sd.grids.Karras(),
    "given": sd.grids.GivenTimes((1.0, 0.1, 0.01, 1e-3)),
}
LOOSE = {"rtol": 0.1, "atol": 0.1}
SAMPLERS = {
    "ancestral": sd.Ancestral(3),
    "ancestral_beta": sd.Ancestral(3, variance="beta"),
    "annealed_langevin": sd.AnnealedLangevin(2, steps_per_level=2),
    "ddim": sd.DDIM(num_steps=3),
    "ddim_noisy": sd.DDIM(0.5, 3),
    "dpm_solver": sd.DPMSolverPP(2, 3, weights="midpoint"),
    "unipc": sd.UniPC(3, 4),
    "exponential": sd.Exponential(20, order=2, eta=1.0, corrector=True),
    "heun": sd.Heun(3, churn=1.0, churn_max=20.0),
    "restart": sd.Restart(17),
    "path": sd.PredictorCorrector(num_steps=3, save_path=True),
    "batch_means": sd.PredictorCorrector(
        corrector=sd.correctors.Langevin(2, sd.BatchMeanStep()), num_steps=3, corrector_first=False
    ),
    **{f"predict_{name}": sd.PredictorCorrector(p, num_steps=3) for name, p in PREDICTORS.items()},
    **{f"grid_{name}": sd.EulerMaruyama(3, grid=grid) for name, grid in GRIDS.items()},
    "flow": sd.ProbabilityFlow(**LOOSE),
    "flow_path": sd.ProbabilityFlow(
        **LOOSE, save_path=True, path_points=3, variable=sd.variables.InLogSNR()
    ),
    "flow_implicit": sd.ProbabilityFlow(diffrax.Kvaerno3(), **LOOSE),
    "flow_steps": sd.ProbabilityFlow(
        diffrax.Heun(), t_min=0.125, controller=diffrax.StepTo(np.linspace(1.0, 0.125, 8))
    ),
    "adaptive": sd.AdaptiveSDE(**LOOSE),
    "adaptive_path": sd.AdaptiveSDE(**LOOSE, save_path=True, path_points=3),
    "adaptive_diffrax": sd.AdaptiveSDE(**LOOSE, solver=diffrax.ShARK()),
    "own": own_sampler.Midpoint(3),
}


@feature(*SAMPLERS)
def sampler(name, dtype):
    """Compiled by `sample`, under each process in turn."""
    sde = list(FINITE.values())[list(SAMPLERS).index(name) % len(FINITE)]
    score = mixture(dtype).score(sde)
    noise = jax.random.normal(KEY, (3, 2), dtype)
    out = sd.sample(KEY, SAMPLERS[name], sde, score, (3, 2), x1=sde.prior_std() * noise)
    assert out.x.dtype == dtype
    assert out.success.all()
    return out.x, out.path


@feature("prior", "image", "half", "cond", "langevin", "corrector", "chunks")
def sampling(name, dtype):
    """What else samples, and samplers called eagerly, whose values are checked one by one."""
    sde = sd.VP()
    score = mixture(dtype).score(sde)
    x = points(dtype)
    if name == "prior":
        assert sd.sample(KEY, sd.Heun(3), sde, score, (3, 2)).success.all()
        return ()
    if name == "image":
        return sd.sample(KEY, sd.DDIM(num_steps=3, start=0.5), sde, score, (3, 2), x0=x).x
    if name == "half":
        return sd.ProbabilityFlow(**LOOSE)(KEY, sde, lambda x, t: -x, x.astype(jnp.bfloat16)).x
    if name == "cond":
        return sd.Heun(3)(KEY, sde, lambda x, t, cond: cond - x, x, cond=x).x
    if name == "langevin":
        return sd.Langevin(3, save_path=True)(KEY, lambda x: score(x, 0.5), x).x
    if name == "corrector":
        return sd.correctors.Langevin()(KEY, sde, score, x, 0.5)
    return sd.sample(KEY, sd.AdaptiveSDE(**LOOSE), sde, score, (3, 2), x1=x, batch_size=2).x


@feature("plain", "noisy")
def gradient_in_settings(name, dtype):
    """The grid is computed in the trace."""
    settings = {"plain": sd.UniPC(1, 2), "noisy": sd.PredictorCorrector(num_steps=3)}[name]
    x1 = jax.random.normal(KEY, (3, 2), dtype)

    def spread(beta_max):
        sde = sd.VP(beta_max=beta_max)
        return jnp.sum(settings(KEY, sde, lambda x, t: -x / 2.0, x1).x ** 2)

    return jax.grad(spread)(jnp.asarray(20.0, dtype))


# --- Training ---

IMAGE = (4, 4, 1)
SMALL = {"channels": 4, "num_blocks": 1, "multipliers": (1, 2)}
NETS = {
    "mlp": (sd.MLPConfig(width=8, depth=1, dropout=0.1, num_classes=2), (2,)),
    "unet": (sd.UNetConfig(**SMALL, num_heads=1, num_classes=2), IMAGE),
    "signal": (sd.UNetConfig(**SMALL, num_heads=1), (5, 1)),
    "ncsnpp": (sd.NCSNppConfig(**SMALL, attention=(2,), num_classes=2), IMAGE),
    "skip": (
        sd.NCSNppConfig(**SMALL, input_path="skip", output_path="skip", centered=False),
        IMAGE,
    ),
    "plain": (
        sd.NCSNppConfig(**SMALL, block="plain", output_path="residual", remat=True),
        IMAGE,
    ),
    "ddpmpp": (sd.NCSNppConfig.ddpmpp(**SMALL, attention=(2,), dtype="bfloat16"), IMAGE),
    "dit": (sd.DiTConfig(width=8, depth=1, num_heads=2, dropout=0.1, num_classes=2), IMAGE),
    "dit_bfloat16": (
        sd.DiTConfig(width=8, depth=1, num_heads=2, dtype="bfloat16", remat=True),
        IMAGE,
    ),
}
TIMES = [
    sd.times.LowDiscrepancy(),
    sd.times.Uniform(),
    sd.times.LogSNR(),
    sd.times.LogNormalSigma(),
    sd.times.Mixture(),
    sd.times.Levels(10),
]
WEIGHTINGS = [sd.weightings.EDM(), sd.weightings.Variance(), sd.weightings.Likelihood()]
LABELS = {
    "time": sd.labels.Scaled(999.0),
    "sigma": sd.labels.Sigma(),
    "index": sd.labels.Index(10),
}
LEVELS = 4
PREPARE = {
    "uniform": sd.UniformDequantization(LEVELS),
    "flip": RandomFlip(sd.UniformDequantization(LEVELS)),
    "shift": RandomShift(1, Scale(LEVELS)),
}


def model_of(net, sde=sd.VP(), parameterization=None):
    config, shape = NETS[net]
    if parameterization is None:
        reads_sigma = isinstance(config, sd.NCSNppConfig) and config.scale_by_sigma
        parameterization = sd.Score(label=sd.labels.Sigma()) if reads_sigma else sd.EDM()
    return sd.ScoreModel(sde, config.build(shape, rngs=nnx.Rngs(0)), parameterization)


def examples(model, dtype, integers=False):
    """Returns twelve examples and their labels, None for a network without."""
    rng = np.random.default_rng(0)
    x = 0.5 * rng.standard_normal((12, *model.net.shape)).astype(dtype)
    if integers:
        x = rng.integers(LEVELS, size=x.shape)
    classes = model.num_classes
    return x, None if classes is None else rng.integers(classes, size=12)


def traced_training(model, dtype, prepare=None, **settings):
    """Traces a step and a validation: what is trained keeps its precision, whatever the data's."""
    x, cond = examples(model, dtype, integers=prepare is not None)
    training = sd.Training(batch_size=12, **settings)
    skeleton, params, constants = Skeleton.split(model)
    state = init_state(params, constants, training.transformation())

    step = make_step(skeleton, training, sd.objectives.DenoisingScoreMatching(), prepare)
    stepped, _ = jax.eval_shape(step, state, KEY, (x, cond))
    old, new = (jax.tree.map(lambda a: a.dtype, tree) for tree in (state, stepped))
    assert old == new

    t = training.times.sample(KEY, model.sde, 12)
    validate = make_validation(skeleton, sd.objectives.DenoisingScoreMatching(), prepare)
    weight = np.ones(12, np.float32)
    jax.eval_shape(validate, params, constants, KEY, np.arange(12), x, t, cond, weight)


@feature(*NETS)
def trained_net(name, dtype):
    traced_training(model_of(name), dtype, accumulate=1 + list(NETS).index(name) % 2)


@feature(*range(len(TIMES)))
def trained_at_times(i, dtype):
    sde = list(PROCESSES.values())[i % len(PROCESSES)]
    model = model_of("mlp", sde, list(PARAMETERIZATIONS.values())[i])
    weighting = WEIGHTINGS[(i + 1 + i // 3) % 3]
    traced_training(model, dtype, times=TIMES[i], weighting=weighting, accumulate=2)


@feature(*LABELS)
def trained_with_label(name, dtype):
    traced_training(model_of("mlp", sd.VE(), sd.Score(label=LABELS[name])), dtype)


@feature(*PREPARE)
def trained_on_integers(name, dtype):
    traced_training(model_of("dit"), dtype, PREPARE[name], final_rate=0.1)


@feature("floats", "integers")
def fitted(name, dtype):
    """Whole trainings, of which the network sees batches in the precision of the data."""
    integers = name == "integers"
    seen = set()

    def prepare(key, x):
        seen.add(x.dtype)
        return PREPARE["uniform"](key, x) if integers else x

    model = model_of("mlp")
    x, cond = examples(model, dtype, integers)
    counts = {"steps": 4, "batch_size": 4, "log_every": 2, "validate_every": 2, "warmup": 1}
    several = {"accumulate": 2, "steps_per_dispatch": 2, "final_rate": 0.5} if integers else {}
    out = sd.fit(
        KEY,
        model,
        x,
        cond=cond,
        prepare=prepare,
        validation=0.25,
        training=sd.Training(**counts, **several),
        progress=False,
    )
    assert seen == {jnp.asarray(x).dtype}
    assert out.history[-1]["skipped"] == 0
    assert np.isfinite(out.history[-1]["valid_loss"])
    return jax.tree.leaves(nnx.state(out.model.net, nnx.Param)) if not integers else ()


@dataclasses.dataclass(frozen=True)
class InUnits:
    """A score of standardised data."""

    score: object
    standardization: sd.Standardization = sd.Standardization([3.0, -1.0], [2.0, 0.5])

    def __call__(self, x, t):
        return self.score(x, t)


@feature("sample", "loss", "codes", "likelihood", "bound", "noise")
def standard_units(name, dtype):
    sde = sd.VP()
    score = InUnits(mixture(dtype).score(sde))
    x = score.standardization.to_data(points(dtype))
    if name == "sample":
        return sd.sample(KEY, sd.Heun(3, save_path=True), sde, score, (3, 2), x1=x).x
    if name == "loss":
        return sd.dsm_loss(KEY, sde, score, x, jnp.asarray([0.1, 0.5, 1.0], dtype))
    if name == "codes":
        code = sd.encode(sde, score, x, rtol=0.1, atol=0.1, t_min=1e-2).x
        return sd.decode(sde, score, code, rtol=0.1, atol=0.1, t_min=1e-2).x
    if name == "bound":
        return sd.variational_bound(KEY, sde, score, x, num_times=3).nll
    if name == "likelihood":
        out = sd.log_likelihood(KEY, sde, score, x, rtol=0.1, atol=0.1, t_min=1e-2)
        assert out.log_prob.dtype == dtype
        return out.log_prob
    noise = sd.TruncatedNormalDequantization(
        sde, 0.01, levels=8, standardization=score.standardization
    )
    z = noise(KEY, jnp.arange(6).reshape(3, 2))
    return z, noise.entropy, noise.log_prob(z, jnp.arange(6).reshape(3, 2))


# --- Likelihoods ---

DIVERGENCES = {
    "one_probe": sd.Hutchinson(),
    "joint": sd.Hutchinson(2),
    "normal": sd.Hutchinson(2, sd.divergences.Gaussian()),
    "captured_one": sd.divergences.HutchPlusPlus(1, 1),
    "captured": sd.divergences.HutchPlusPlus(1, 2),
    "exact": sd.ExactDivergence(),
    "blocks": sd.ExactDivergence(block_size=1),
}
COARSE = {**LOOSE, "t_min": 1e-2}


@feature(*DIVERGENCES)
def likelihood(name, dtype):
    sde = list(PROCESSES.values())[list(DIVERGENCES).index(name) % len(PROCESSES)]
    score = mixture(dtype).score(sde)
    settings = {"divergence": DIVERGENCES[name], "joint_steps": name == "joint", **COARSE}
    out = sd.log_likelihood(KEY, sde, score, points(dtype), **settings)
    assert out.log_prob.dtype == dtype
    assert (out.stderr is None) == (name in ("one_probe", "captured_one"))
    return out.log_prob, out.stderr, out.latent


@feature("mlp", "ncsnpp", "dit")
def likelihood_of_net(name, dtype):
    model = model_of(name, sd.VE())
    x, cond = examples(model, dtype)

    def log_prob(x):
        return sd.log_likelihood(KEY, model.sde, model, x, cond, **COARSE).log_prob

    assert jax.eval_shape(log_prob, jnp.asarray(x)).dtype == dtype


@feature("codes", "great_circle", "gaps", "exact_gaps", "bound", "bits", "float64")
def along_the_flow(name, dtype):
    sde = sd.VP()
    mix = mixture(dtype)
    score = mix.score(sde)
    x = points(dtype)
    if name == "codes":
        code = sd.encode(sde, score, x, **COARSE).x
        return code, sd.decode(sde, score, code, temperature=0.9, **COARSE).x
    if name == "great_circle":
        return sd.interpolate(x, x[::-1], 4), sd.interpolate(x, x, 2)
    if name == "bound":
        bound = sd.variational_bound(KEY, sde, score, x, num_times=3)
        assert bound.nll.dtype == dtype
        return bound
    if name == "bits":
        draws = jnp.ones((2, 3), dtype)
        bits = sd.bits_per_dim(mix.log_prob(sde, x, 0.0), 2)
        return bits, sd.discrete_bits_per_dim(draws, 2.0 * draws, 2, 0.0 * draws)

    wide = name == "float64"
    likelihood = sd.log_likelihood(KEY, sde, score, x, float64=wide, **COARSE)
    known = sd.GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09], [0.3, 0.7])
    log_prob = partial(known.log_prob, sde) if name == "exact_gaps" else None
    gaps = sd.gaps(KEY, sde, score, x, likelihood, log_prob=log_prob)
    return likelihood.log_prob, gaps.prior, gaps.truncation


@feature("uniform", "truncated")
def dequantized(name, dtype):
    sde = sd.VP()
    k = jnp.asarray([[0, 3], [1, 2], [2, 2]])
    uniform = sd.UniformDequantization(4)
    dequantize = uniform if name == "uniform" else sd.TruncatedNormalDequantization(sde, 0.05, 4)
    z = dequantize(KEY, k).astype(dtype)
    assert dequantize.log_prob(z, k).dtype == dtype
    return dequantize.entropy, dequantize.log_prob(z, k)


def test_a_set_on_file(tmp_path):
    mix = mixture("float32")
    with under(*FLAGS):
        out = likelihood_of_set(
            KEY,
            sd.VP(),
            mix.score(sd.VP()),
            np.asarray([[0, 3], [1, 2], [2, 2]]),
            dequantization=sd.UniformDequantization(4),
            path=tmp_path / "rows.jsonl",
            about={},
            divergence=sd.Hutchinson(),
            tolerance=0.1,
            t_min=1e-2,
            repeats=2,
            batch_size=2,
            progress=False,
        )
    assert np.isfinite(out.bits_per_dim(2).nats).all()
    assert out.stderr is None


# --- Conditions and guidance ---


@feature(*GUIDED)
def guided_samples(name, dtype):
    """Every wrapper: a score, its denoiser, a sampler's loop and a likelihood."""
    sde = sd.VP()
    labels = np.asarray([2, 0, 1])
    score, cond = guided(name, sde, labels)
    sampler = sd.ProbabilityFlow(rtol=0.1, atol=0.1)
    out = sampler(KEY, sde, score, points(dtype), cond)
    assert out.x.dtype == dtype
    likelihood = sd.log_likelihood(KEY, sde, score, points(dtype), cond, **COARSE)
    return out.x, likelihood.log_prob


@feature("labels", "vectors")
def dropped_conditions(name, dtype):
    config = {"num_classes": 2} if name == "labels" else {"num_classes": 2, "cond_dim": 3}
    net = sd.MLPConfig(width=8, depth=1, **config).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net)
    label = np.asarray([0, 1, 1])
    cond = label if name == "labels" else (label, np.ones((3, 3), np.float32))
    guided_score = sd.ClassifierFreeGuidance(model, 2.0, interval=(0.1, 5.0))
    return guided_score(points(dtype), 0.5, cond), guided_score.denoise(points(dtype), 0.5, cond)


@feature("cross_entropy")
def classifier(name, dtype):
    net = sd.nets.MLPClassifierConfig(num_classes=2, width=8, depth=1)
    model = sd.ClassifierModel(sd.VP(), net.build((2,), rngs=nnx.Rngs(0)))
    skeleton, params, constants = Skeleton.split(model)
    training = sd.Training(batch_size=12)
    state = init_state(params, constants, training.transformation())
    step = make_step(skeleton, training, sd.objectives.CrossEntropy(), None)
    x = np.zeros((12, 2), dtype)
    jax.eval_shape(step, state, KEY, (x, np.arange(12) % 2))
    return model(points(dtype), 0.5)


# --- The tests ---

PRECISIONS = ("float32", "float64")


def _cases():
    for n, (name, precision) in enumerate(itertools.product(FEATURES, PRECISIONS)):
        fast = n % 6 == (n // 12) % 2  # every third feature, in one precision or the other
        marks = [] if fast else [pytest.mark.slow]
        yield pytest.param(name, precision, id=f"{name}-{precision}", marks=marks)


@pytest.mark.parametrize("name, precision", list(_cases()))
def test_all_flags_together(name, precision):
    with under(*FLAGS):
        out = FEATURES[name](precision)
    for leaf in jax.tree.leaves(out):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("name", FEATURES)
def test_a_flag_alone_changes_nothing(name, flag):
    """With 64 bits the default precision is another, and so are numbers drawn in it."""
    with under(flag):
        out = FEATURES[name]("float32")
    if flag == "x64":
        return
    want = FEATURES[name]("float32")
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
