"""Sources of images: right pixels and labels, the same order always, a cache that is whole or not used, no waiting."""

import gzip
import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import scoresde as sd
from scoresde.data import cache, images
from scoresde.data.images import Geometry, Images
from scoresde.data.order import Order
from scoresde.data.prefetch import Prefetch
from scoresde.data.prepare import RandomFlip, RandomShift, Scale, without_augmentation
from scoresde.data.source import Subset, fingerprint

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (24, 8, 6, 1), dtype=np.uint8)
LABELS = rng.integers(0, 3, 24).astype(np.int32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORESDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


# --- Where they come from ---


def write_idx(folder):
    """The four files, two of them gzipped, written byte by byte."""
    folder.mkdir()
    for split, part in (("train", slice(0, 20)), ("t10k", slice(20, 24))):
        x, y = PIXELS[part], LABELS[part]
        header = b"\0\0\x08\x03" + struct.pack(">III", len(x), 8, 6)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + x.tobytes())
        content = b"\0\0\x08\x01" + struct.pack(">I", len(y)) + bytes(y.tolist())
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def rows(found):
    """Images with their labels, in an order of their own: TFDS shuffles what it writes."""
    return sorted(
        (x.tobytes(), int(label)) for x, label in zip(found.pixels, found.labels, strict=True)
    )


def test_idx_files_become_a_tfds_set_without_tensorflow(tmp_path):
    """Every image with its label, from the four files and, by name, from the set that was prepared; wrong files."""
    folder = write_idx(tmp_path / "idx")
    train, test = (images.fashion_mnist(split, folder=folder) for split in ("train", "test"))
    assert rows(train) == rows(Images(PIXELS[:20], LABELS[:20]))
    assert rows(test) == rows(Images(PIXELS[20:], LABELS[20:]))
    assert "tensorflow" not in sys.modules
    (prepared,) = (tmp_path / "cache" / "idx").iterdir()
    again = images.from_tfds("idx_images:1.0.0", "train[:5]", data_dir=prepared, label=None, size=6)
    assert again.labels is None
    np.testing.assert_array_equal(
        again.pixels, train.pixels[:5, 1:7]
    )  # the shorter side is 6 already

    assert len(images.from_tfds("idx_images:1.*.*", "test", data_dir=prepared)) == 4
    with pytest.raises(ValueError, match=r"no example in the split 'train\[:0\]'"):
        images.from_tfds("idx_images", "train[:0]", data_dir=prepared)
    with pytest.raises(ValueError, match="features image, label"):
        images.from_tfds("idx_images", data_dir=prepared, image="picture")
    info = next(prepared.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="convert_format"):
        images.from_tfds("idx_images", data_dir=prepared)
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="959 entries"):
        images.fashion_mnist(folder=folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        images.fashion_mnist(folder=folder)


def test_what_is_not_prepared_is_said_at_once(tmp_path):
    """Before TFDS is imported or a network asked, which would try for minutes: where it looked, and what to write."""
    code = (
        f"import sys, time; from scoresde.data import images; start = time.perf_counter()\n"
        f"try: images.from_tfds('cifar10', data_dir={str(tmp_path)!r})\n"
        f"except FileNotFoundError as error: print(error)\n"
        f"print(time.perf_counter() - start, 'tensorflow_datasets' in sys.modules)"
    )
    environment = os.environ | {
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    message, found = done.stdout.splitlines()
    seconds, imported = found.split()
    assert float(seconds) < 5
    assert imported == "False"
    assert f"{tmp_path}/cifar10" in message
    assert "images.from_tfds('cifar10', data_dir=" in message
    assert "download=True" in message


def test_folders_as_people_have_them(tmp_path, monkeypatch):
    """A photograph on its side by EXIF, what begins with a dot, links (one in a circle), a bomb."""
    folder, photo = write_pngs(tmp_path / "folder"), np.zeros((8, 6, 3), np.uint8)
    photo[:4] = 200  # the upper half, once it stands
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    Image.fromarray(np.rot90(photo)).save(folder / "a" / "0.png", exif=exif)
    for hidden in (folder / ".checkpoints" / "1.png", folder / "a" / ".2.png"):
        hidden.parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(hidden)
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    write_pngs(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    found = images.from_folder(folder, labels=True)
    assert found.classes == ("a", "b", "c")
    np.testing.assert_array_equal(np.bincount(found.labels), [3, 2, 4])
    np.testing.assert_array_equal(found.pixels[0], photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"0.png cannot be used"):
        images.from_folder(folder, size=4)


def write_pngs(folder, side=8):
    for i, name in enumerate(["b/1.png", "a/2.png", "b/0.PNG", "a/deep/3.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, 6, 3), 10 * i, np.uint8)).save(folder / name, format="png")
    (folder / "a" / "notes.txt").write_text("no image")
    return folder


def test_folders(tmp_path):
    """In the order of their paths, labels by the first folder; what cannot be used is named."""
    folder = write_pngs(tmp_path / "folder")
    found = images.from_folder(folder, labels=True)
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 0], [10, 30, 20, 0])
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    assert found.classes == ("a", "b")
    assert found.shape == (8, 6, 3)
    assert images.from_folder(folder, size=4, channels=1).shape == (4, 4, 1)

    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(folder / "a" / "4.png")
    with pytest.raises(ValueError, match=r"example 1 has shape .9, 6, 3"):
        images.from_folder(folder)
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"c.png stands in no class"):
        images.from_folder(folder, labels=True)
    with pytest.raises(ValueError, match=r"c.png cannot be used"):
        images.from_folder(folder, size=6)
    with pytest.raises(FileNotFoundError, match="no image"):
        images.from_folder(tmp_path / "cache")


def test_geometry():
    """A crop is the centre, a reduction by 2 of a ramp the ramp's means, and the shorter side decides."""
    ramp = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None], (12, 12, 3))
    np.testing.assert_array_equal(Geometry(crop=4).of_array(ramp), ramp[4:8, 4:8])
    half = Geometry(size=6).of_array(ramp)
    np.testing.assert_allclose(
        half[1:-1, 0, 0], ramp[:, 0, 0].reshape(6, 2).mean(axis=1)[1:-1], atol=1
    )
    wide = Geometry(crop=None, size=6, channels=1)(Image.fromarray(np.hstack([ramp, ramp])))
    np.testing.assert_array_equal(wide[..., 0], half[..., 0])
    with pytest.raises(ValueError, match="no central 20×20"):
        Geometry(crop=20).of_array(ramp)
    with pytest.raises(ValueError, match="8 bits"):
        Geometry()(Image.fromarray(np.zeros((2, 2), np.uint16)))


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (PIXELS[..., 0], None),
        (PIXELS[:0], None),
        (PIXELS / 255.0, None),
        (PIXELS, LABELS[:5]),
    ],
)
def test_arrays_that_are_no_images_are_refused(pixels, labels):
    with pytest.raises(ValueError, match="wanted"):
        Images(pixels, labels)


# --- The cache ---


def decode(folder, count=600, calls=None, fail_at=None):
    """i → an image full of i: every one tells where it belongs."""

    def examples(indices):
        for i in indices:
            if i == fail_at:
                raise KeyboardInterrupt
            if calls is not None:
                calls.append(i)
            yield np.full((2, 2, 1), i % 251, np.uint8), i

    return cache.decode_once("numbers", count, examples, folder)


def test_decoded_once(tmp_path, monkeypatch):
    """Each image once, in its place; later calls decode nothing, in memory or mapped; a folder's change is noticed."""
    calls = []
    decode(tmp_path, calls=calls)
    assert sorted(calls) == [0, *range(600)]  # the first is looked at twice
    calls.clear()
    found = decode(tmp_path, calls=calls)
    monkeypatch.setattr(cache, "LARGEST_IN_MEMORY", 100)
    mapped = decode(tmp_path, calls=calls)
    assert not calls
    assert isinstance(mapped.pixels, np.memmap)
    for one in (found, mapped):
        np.testing.assert_array_equal(one.pixels[:, 1, 1, 0], np.arange(600) % 251)
        np.testing.assert_array_equal(one.labels, np.arange(600))
        assert one.digest == found.digest

    folder = write_pngs(tmp_path / "folder")
    before = images.from_folder(folder)
    time.sleep(0.01)
    Image.fromarray(np.full((8, 6, 3), 99, np.uint8)).save(folder / "a" / "2.png")
    after = images.from_folder(folder)
    assert after.pixels[0, 0, 0, 0] == 99
    assert after.fingerprint != before.fingerprint


def test_threads_that_want_the_same_get_the_same(tmp_path):
    """Two at once: one decodes, the other finds it done."""
    calls, found = [], []
    threads = [
        threading.Thread(target=lambda: found.append(decode(tmp_path, calls=calls)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(calls) == 601
    np.testing.assert_array_equal(found[0].pixels, found[1].pixels)


def test_of_two_processes_the_first_ones_folder_stays(tmp_path):
    """What is made is the same in both; an error in the making leaves nothing."""
    place = tmp_path / "made"
    with cache.whole_or_not_at_all(place) as second:
        (second / "by").write_text("the second")
        assert not place.exists()
        with cache.whole_or_not_at_all(place.with_name("other")) as first:
            (first / "by").write_text("the first")
        place.with_name("other").rename(place)  # meanwhile, in another process
    with pytest.raises(OSError, match="disk full"), cache.whole_or_not_at_all(tmp_path / "never"):
        raise OSError("disk full")
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    assert (place / "by").read_text() == "the first"


def test_an_interrupted_decode_leaves_nothing_that_is_taken_for_whole(tmp_path):
    """After an exception, after a kill in the middle of it, and where bytes were lost or changed."""
    with pytest.raises(KeyboardInterrupt):
        decode(tmp_path, fail_at=500)
    assert not list(tmp_path.iterdir())

    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import numpy as np\n"
        f"from pathlib import Path; from scoresde.data import cache\n"
        f"stop = lambda rows: [os._exit(9) if i == 500 else (np.zeros((2, 2, 1), np.uint8), i) for i in rows]\n"
        f"cache.decode_once('numbers', 600, stop, Path({str(tmp_path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (remains,) = tmp_path.iterdir()
    assert remains.name.endswith(".partial")
    want = np.arange(600) % 251
    np.testing.assert_array_equal(decode(tmp_path).pixels[:, 0, 0, 0], want)
    (place,) = tmp_path.iterdir()  # the remains are gone

    for damage in (lambda b: b[:-1], lambda b: b[:-5] + b"\0" + b[-4:]):
        file = place / "pixels.npy"
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match="damaged"):
            np.testing.assert_array_equal(decode(tmp_path).pixels[:, 0, 0, 0], want)
    assert json.loads((place / "about.json").read_text())["identity"] == "numbers"


# --- Order ---


def test_order_is_of_seed_and_step_and_cut_over_processes():
    """An epoch holds every example once; two processes' rows are one process's, in order; a seed is another order."""
    order = Order(seed=3, n=24, batch_size=8)
    epochs = np.array([order(step) for step in range(6)]).reshape(2, 24)
    np.testing.assert_array_equal(np.sort(epochs), [np.arange(24)] * 2)
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(
        Order(3, 24, 8)(4), epochs.reshape(6, 8)[4]
    )  # no step before it is needed
    assert (Order(4, 24, 8)(0) != order(0)).any()
    for step in (0, 5):
        parts = [Order(3, 24, 8, process, 4)(step) for process in range(4)]
        np.testing.assert_array_equal(np.concatenate(parts), order(step))
    for wrong in ({"process": 4, "processes": 4}, {"processes": 3}, {"n": 0}):
        with pytest.raises(ValueError, match="wanted"):
            Order(**{"seed": 0, "n": 24, "batch_size": 8} | wrong)


def test_prefetch_keeps_the_order_and_no_thread():
    """Ahead by as many as it may, errors where they belong, and gone when left in the middle."""
    made, other = [], []

    def make(i):
        if i == 7:
            raise RuntimeError("seven")
        made.append(i)
        other.append(threading.current_thread() is not threading.main_thread())
        return -i

    with Prefetch(make, range(100), ahead=2) as ahead:
        for i in range(7):
            assert next(ahead) == -i
            assert max(made) <= i + 3  # one in hand, two waiting
        with pytest.raises(RuntimeError, match="seven"):
            next(ahead)
        with pytest.raises(RuntimeError, match="seven"):
            next(ahead)
    assert all(other)
    with Prefetch(lambda i: i, range(10**9)) as ahead:
        assert next(ahead) == 0
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
    with Prefetch(lambda i: time.sleep(0.2), range(1)) as ahead:
        assert list(ahead) == [None]
    assert 0.1 < ahead.waited < 5


# --- In training ---


def test_flips_are_of_key_and_example():
    """Each example whole or mirrored, half of them; the same for the same key, whatever its neighbours."""
    x = jnp.asarray(np.repeat(PIXELS, 20, axis=0))
    flipped = RandomFlip()(jax.random.key(1), x)
    kept = np.all(flipped == x, axis=(1, 2, 3))
    mirrored = np.all(flipped == x[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(kept | mirrored)
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(x))
    np.testing.assert_array_equal(RandomFlip()(jax.random.key(1), x[:5]), flipped[:5])
    scaled = RandomFlip(Scale(levels=256))(jax.random.key(1), x)
    assert abs(scaled).max() <= 1
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(
        np.sort(scaled, axis=2), np.sort(2.0 * x / 255.0 - 1, axis=2), atol=1e-6
    )


def test_shifts_are_uniform_and_of_key_and_example():
    """Every example is one of the nine cuts from its edge-padded self, each as often; neighbours do not matter."""
    image = PIXELS[:1]
    cuts = [
        np.pad(image[0], [(1, 1), (1, 1), (0, 0)], mode="edge")[i : i + 8, j : j + 6]
        for i in range(3)
        for j in range(3)
    ]
    x = jnp.asarray(np.repeat(image, 900, axis=0))
    moved = np.asarray(RandomShift()(jax.random.key(1), x))
    equal = np.array([[np.array_equal(row, cut) for cut in cuts] for row in moved])
    assert np.all(equal.sum(axis=1) == 1)  # so the nine differ, too
    np.testing.assert_allclose(equal.mean(axis=0), 1 / 9, atol=4.5 * np.sqrt(8 / 81 / len(x)))
    np.testing.assert_array_equal(RandomShift()(jax.random.key(1), x[:5]), moved[:5])
    assert RandomShift(2)(jax.random.key(1), jnp.zeros((4, 7, 1))).shape == (4, 7, 1)  # a signal
    with pytest.raises(ValueError, match="pixels = 0"):
        RandomShift(0)


@pytest.mark.parametrize("augmentation", [RandomFlip(), RandomShift()])
def test_vectors_have_no_augmentation(augmentation):
    """Where fit first calls it: an axis of space is wanted, not taken from the batch."""
    model = sd.ScoreModel(
        sd.VP(), sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0)), sd.EDM()
    )
    with pytest.raises(ValueError, match=r"shape \(2,\): wanted \(\*space, channels\)"):
        sd.fit(
            jax.random.key(0),
            model,
            np.random.default_rng(0).normal(size=(40, 2)),
            prepare=augmentation,
            training=sd.Training(steps=1, batch_size=4),
            progress=False,
        )


def test_held_out_examples_are_prepared_without_augmentation():
    """Whatever is nested comes off, and is named."""
    dequantize = sd.UniformDequantization()
    assert without_augmentation(RandomFlip(RandomShift(2, dequantize))) == (
        dequantize,
        ["flip", "shift 2"],
    )
    assert without_augmentation(RandomShift()) == (None, ["shift 1"])
    assert without_augmentation(dequantize) == (dequantize, [])
    assert without_augmentation(RandomShift(2, RandomShift(1)))[1] == [
        "shift 2",
        "shift 1",
    ]  # each decides a resume


class Mirror(nnx.Module):
    """The least that can be trained: one number per pixel."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((8, 6, 1)))

    def __call__(self, x, t, cond=None):
        return self.weight * x


TRAINING = sd.Training(steps=8, batch_size=8, warmup=2, validate_every=4, log_every=2)
FLIP = RandomFlip(sd.UniformDequantization())


def train(data, **options):
    model = sd.ScoreModel(sd.VP(), Mirror(), sd.Noise())
    options = {"validation": 0.25, "training": TRAINING, "prepare": FLIP} | options
    return sd.fit(jax.random.key(0), model, data, progress=False, **options)


def test_a_source_trains_as_its_arrays_do_and_resumes_to_the_bit(tmp_path):
    """8 steps from a source equal 8 from the arrays, and 4 + 4 in a run; another source is refused."""
    source = Images(PIXELS)
    arrays, run = train(PIXELS), tmp_path / "run"
    short = sd.Training(steps=4, batch_size=8, warmup=2, validate_every=4, log_every=2)
    train(source, run=run, training=short)
    resumed = train(source, run=run)
    np.testing.assert_array_equal(resumed.model.net.weight[...], arrays.model.net.weight[...])
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in arrays.history]
    assert [row["step"] for row in resumed.history] == [2, 4, 6, 8]
    assert all(0 <= row["data_wait"] < 1 for row in resumed.history)
    with np.load(run / "held_out.npz") as kept:
        assert kept["x"].shape == (6, 8, 6, 1)
    for change in ({"data": Images(PIXELS[::-1])}, {"data": source, "prepare": FLIP.then}):
        with pytest.raises(ValueError, match="made with other settings"):
            train(**change, run=run)


class Own:
    """A source of the user's own."""

    def __init__(self, batch, shape, count):
        self.batch, self.shape, self.count = batch, shape, count

    def __len__(self):
        return self.count


def test_sources_that_do_not_fit_are_refused(unchecked):
    wrong = {
        "wanted .indices": Own(lambda i: PIXELS[i, :7], (8, 6, 1), 24),
        "not empty": Own(lambda i: PIXELS[i], (8, 6, 1), 0),
        "NaN": Own(lambda i: PIXELS[i] * np.nan, (8, 6, 1), 24),
        "dtype": Own(lambda i: PIXELS[i].astype(str), (8, 6, 1), 24),
    }
    for message, source in wrong.items():
        with pytest.raises(ValueError, match=message):
            train(source)
    with pytest.raises(ValueError, match="condition came beside it"):
        train(Images(PIXELS), cond=LABELS)
    with pytest.raises(ValueError, match="come together"):
        train(Images(PIXELS, LABELS), validation=Images(PIXELS))


def test_an_error_in_the_thread_ends_training_with_its_reason():
    def batch(indices):
        if 13 in indices:
            raise OSError("the disk is gone")
        return PIXELS[indices]

    with pytest.raises(OSError, match="the disk is gone"):
        train(Own(batch, (8, 6, 1), 24), validation=0.0)


def test_fingerprints_of_sources():
    """Of contents, not objects; of a subset's rows; large arrays by rows spread over them."""
    mine = lambda x: fingerprint(Own(lambda i: x[i], (8, 6, 1), 24))  # noqa: E731
    assert mine(PIXELS) == mine(PIXELS.copy()) != mine(PIXELS[::-1])
    assert Images(PIXELS).fingerprint != Images(PIXELS, LABELS).fingerprint
    halves = [Subset(Images(PIXELS), np.arange(12) + start) for start in (0, 12)]
    assert halves[0].fingerprint != halves[1].fingerprint
    np.testing.assert_array_equal(halves[1].batch(np.array([0, 2])), PIXELS[[12, 14]])
