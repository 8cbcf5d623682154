"""`scoresde inpaint` and `scoresde restore`: what they write, and what they refuse."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import scoresde as sd

MULTISTEP = "sampler:uni-pc"
ADAPTIVE = "sampler:probability-flow"
FAST = ("--num", "3", "sampler:ddim", "--sampler.eta", "1.0", "--sampler.num-steps", "10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on images (4, 4, 3), a picture, its half, and a mask of its left half."""
    path = tmp_path_factory.mktemp("pictures")
    net = sd.MLPConfig(width=16, depth=1).build((4, 4, 3), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(0.5))
    data = np.random.default_rng(0).integers(60, 200, (100, 4, 4, 3))
    training = sd.Training(steps=20, batch_size=16, warmup=2, validate_every=20)
    sd.fit(
        jax.random.key(0),
        model,
        data,
        prepare=sd.UniformDequantization(),
        training=training,
        run=path / "run",
        progress=False,
    )
    pixels = data[0].astype(np.uint8)
    Image.fromarray(pixels).save(path / "in.png")
    Image.fromarray(pixels[::2, ::2]).save(path / "small.png")
    Image.fromarray(np.array([[255, 255, 0, 0]] * 4, np.uint8)).save(path / "mask.png")
    return path


def words(folder, command, *options):
    return command, str(folder / "run"), *options, *FAST


WRONG_MASKS = {
    "ONES": Image.fromarray(np.eye(4, dtype=np.uint8)),
    "WHITE": Image.new("L", (4, 4), 255),
    "CLEAR": Image.new("RGBA", (4, 4), (0, 0, 0, 0)),  # laid on white
    "DEEP": Image.fromarray(np.full((4, 4), 40_000, np.uint16)),
}

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "method",
    [
        "mmps",
        "repaint",
        *(pytest.param(name, marks=SLOW) for name in ("pigdm", "dps", "replacement")),
    ],
)
def test_inpaint_writes_a_picture_samples_and_json(folder, call, method):
    code, out, err = call(
        *words(folder, "inpaint", "--image", str(folder / "in.png")),
        "--mask",
        str(folder / "mask.png"),
        "--method",
        method,
        "--noise-std",
        "0.3",
        "--json",
    )
    assert code == 0, err
    about = json.loads(out)
    assert json.loads(Path(about["json"]).read_text()) == about
    assert about["mask"].endswith("mask.png") and not about["degrade"]
    assert about["measured"] == 24 and about["failed"] == 0
    assert Image.open(about["picture"]).width > 300

    stored = np.load(about["samples"])
    x = stored["x"]
    assert x.shape == (3, 4, 4, 3)
    known = -1.0 + 2.0 * np.asarray(Image.open(folder / "in.png"))[:, :2] / 255.0
    np.testing.assert_allclose(stored["y"][:, :2], known, atol=1e-6)
    gap = np.sqrt(np.mean((x[:, :, :2] - known) ** 2))
    assert about["misfit"] == pytest.approx(gap, abs=1e-6)
    assert gap < (1e-6 if method in ("repaint", "replacement") else 0.5)
    assert about["spread"] == pytest.approx(x.std(axis=0, ddof=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "operator", ["blur:0.3", *(pytest.param(name, marks=SLOW) for name in ("downsample:2", "gray"))]
)
def test_restore_reports_errors_of_a_picture_that_it_degraded(folder, call, operator):
    code, out, err = call(
        *words(folder, "restore", "--image", str(folder / "in.png")),
        "--operator",
        operator,
        "--degrade",
        "--out",
        str(folder / "out.png"),
        "--json",
    )
    assert code == 0, err
    about = json.loads(out)
    truth = -1.0 + 2.0 * np.asarray(Image.open(folder / "in.png")) / 255.0
    x = np.load(folder / "out.npz")["x"]
    error = np.sqrt(np.mean((x.mean(axis=0) - truth) ** 2))
    assert about["error_of_mean"] == pytest.approx(error, rel=1e-4)
    assert about["error_of_samples"] > about["error_of_mean"]
    assert (folder / "out.png").exists()


def test_samples_that_fly_off_have_failed(folder, call):
    """DPS at little noise: its steps are too long, and the samples, finite, are no pictures."""
    command = words(folder, "restore", "--image", str(folder / "small.png"))
    command = (*command, "--operator", "downsample:2", "--noise-std", "0.001")
    code, _, err = call(*command, "--method", "dps")
    assert code == 1
    message = " ".join(err.split())
    assert "3 of 3 samples failed, or flew far out of the range" in message
    assert message.count("or --method mmps") == 1
    code, _, err = call(*command, "--method", "mmps")  # what the message advises
    assert code == 0, err


def test_restore_takes_a_small_picture(folder, call):
    code, out, err = call(
        *words(folder, "restore", "--image", str(folder / "small.png")),
        "--operator",
        "downsample:2",
    )
    assert code == 0, err
    assert "misfit" in out and "error of mean" not in out
    assert list((folder / "run" / "restored").glob("small_downsample-2_mmps*.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("inpaint", "--mask", "MASK"), "write --image in.png"),
        (("inpaint", "--image", "IN"), "write --mask mask.png"),
        (("inpaint", "--image", "SMALL", "--mask", "MASK"), "wanted 4 × 4"),
        (("inpaint", "--image", "nowhere.png", "--mask", "MASK"), "cannot be read"),
        (("restore", "--image", "IN"), "wanted downsample:2, blur:1.5"),
        (
            ("restore", "--image", "IN", "--operator", "downsample:2"),
            "wanted 2 × 2. If it is whole, add",
        ),
        (("inpaint", "--image", "IN", "--mask", "ONES"), "0 … 1 of 0 … 255: wanted white, 255"),
        (("inpaint", "--image", "IN", "--mask", "WHITE"), "some of each"),
        (("inpaint", "--image", "IN", "--mask", "CLEAR"), "255 … 255 of 0 … 255"),
        (("inpaint", "--image", "DEEP", "--mask", "MASK"), "wanted 8 bits a channel"),
        (("restore", "--image", "IN", "--operator", "gray"), "in colour: wanted a gray picture"),
        (("restore", "--image", "IN", "--operator", "blur:nan"), "wanted downsample:2, blur:1.5"),
        (
            ("restore", "--image", "IN", "--operator", "blur:1.5", "--method", "repaint"),
            "write --method mmps",
        ),
        (
            ("restore", "--image", "IN", "--operator", "gray", "--method", "repaint", MULTISTEP),
            "UniPC remembers of earlier ones useless: write sampler:ddim",
        ),
        (
            ("restore", "--image", "IN", "--operator", "gray", "--method", "dps", "--noise-std=0"),
            "write --noise-std 0.01, or --method",
        ),
        (("restore", "--image", "IN", "--operator", "downsample:x"), "downsample:x"),
        (("restore", "--image", "IN", "--operator", "gray", "--num", "1"), "at least 2"),
        (("restore", "--image", "IN", "--operator", "gray", "--out", "a.jpg"), "ends in .png"),
        (
            ("restore", "--image", "IN", "--operator", "gray", "--method", "replacement", ADAPTIVE),
            "write sampler:ddim",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder, call, options, message):
    names = {word: f"{word.lower()}.png" for word in ("IN", "SMALL", "MASK", *WRONG_MASKS)}
    for word, mask in WRONG_MASKS.items():
        mask.save(folder / names[word])
    command, *rest = (str(folder / names[word]) if word in names else word for word in options)
    code, _, err = call(command, str(folder / "run"), *rest)
    assert code == 2, err
    assert message in " ".join(err.split())


def test_only_images_have_pictures(trained, call, folder):
    code, _, err = call(
        "restore", str(trained), "--image", str(folder / "in.png"), "--operator", "gray"
    )
    assert code == 1
    assert "sd.inverse.MMPS(model, model.sde, operator, y, 0.1)" in " ".join(err.split())


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_drawn(
    folder, tmp_path, monkeypatch, call
):
    monkeypatch.setattr("scoresde.cli.restore.sample", None)
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(run / "restored", ignore_errors=True)
    (run / "restored").write_text("a file")
    image = ("--image", str(folder / "small.png"), "--operator", "downsample:2")
    code, _, err = call("restore", run, *image, *FAST)
    assert code == 1
    assert f"error: {run / 'restored'} cannot be written (" in err
    assert "name another picture to write, --out NAME.png.\n" in err
