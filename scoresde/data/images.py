"""Images as a source of examples: from arrays, folders, TFDS data sets, and Fashion-MNIST's files.

Decoded once to uint8 and cached (cache.py); a batch is then an indexing. What is random, dequantisation and flips,
happens inside the compiled step (prepare.py): `fit(key, model, images, prepare=RandomFlip(UniformDequantization()))`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from scoresde import checks
from scoresde.data.cache import LOCK, cache_folder, decode_once, whole_or_not_at_all
from scoresde.data.idx import find_idx
from scoresde.data.source import digest

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four files."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LARGEST_READ = 2**30
"""Bytes of an array beyond which some of its rows stand for all of them in its fingerprint."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """pixels (n, height, width, c), integers, in memory or memory mapped; labels (n,) or None. A source for `fit`.

    Raises:
        ValueError: if pixels are no integers (n, height, width, c), or there is not one label for each.
    """

    pixels: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    """Names of the labels, where they are known."""
    digest: str | None = None
    """Of pixels and labels, where it is known already."""

    def __post_init__(self):
        pixels = self.pixels
        if pixels.ndim != 4 or not len(pixels) or not np.issubdtype(pixels.dtype, np.integer):
            raise ValueError(
                f"pixels have shape {pixels.shape} and dtype {pixels.dtype}: wanted integers (n, height, width, c), "
                f"not empty. Grey images: pixels[..., None]; real-valued arrays go to fit as they are."
            )
        if self.labels is not None and self.labels.shape[:1] != pixels.shape[:1]:
            raise ValueError(
                f"labels have shape {self.labels.shape} for {len(pixels)} images: wanted one for each."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, (height, width, c)."""
        return self.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Pixels (k, height, width, c), with labels where there are any."""
        pixels = np.asarray(self.pixels[indices])
        return pixels if self.labels is None else (pixels, self.labels[indices])

    @functools.cached_property
    def fingerprint(self) -> str:
        """The digest; without one that of the array, beyond a gigabyte of 1024 rows spread over it."""
        if self.digest is not None:
            return f"{self.digest}{'' if self.labels is None else ' with labels'}"
        labels = [] if self.labels is None else [self.labels]
        if self.pixels.nbytes <= LARGEST_READ:
            return digest(self.pixels, *labels)
        spread = np.unique(np.linspace(0, len(self) - 1, 1024).astype(int))
        return digest(str(self.pixels.shape).encode(), self.pixels[spread], *labels)

    def without_labels(self) -> Images:
        """The same, for a network that knows no classes."""
        return dataclasses.replace(self, labels=None, classes=())


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Central crop, then the shorter side to `size`, then a central square of it.

    Resizing is bilinear and averages where it shrinks, as `tf.image.resize(antialias=True)` does. CelebA-64 of Song et
    al. 2021 is Geometry(crop=140, size=64).

    Raises:
        ValueError: if a number is out of range.
    """

    size: int | None = None
    """Side of the square that is returned; None: images stay as large as they are."""
    crop: int | None = None
    """Side of the central square that is cut out first; None: nothing is cut."""
    channels: int | None = None
    """1: grey; 3: red, green, blue; None: as they are, grey or colour."""

    def __post_init__(self):
        for name in ("size", "crop"):
            if getattr(self, name) is not None:
                checks.count(name, getattr(self, name))
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels = {self.channels}: wanted 1, 3 or None.")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (height, width, c)."""
        if image.mode[0] in "IF":  # converting would clip
            raise ValueError(f"its pixels are of mode {image.mode}: wanted 8 bits a channel.")
        if self.channels is not None or image.mode not in ("L", "RGB"):
            grey = self.channels == 1 or (self.channels is None and image.mode in ("1", "LA"))
            image = image.convert("L" if grey else "RGB")
        if self.crop is not None:
            image = _central(image, self.crop)
        if self.size is not None and image.size != (self.size, self.size):
            ratio = self.size / min(image.size)
            width, height = (max(self.size, round(ratio * side)) for side in image.size)
            image = _central(image.resize((width, height), Image.Resampling.BILINEAR), self.size)
        pixels = np.asarray(image, np.uint8)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def of_array(self, pixels: np.ndarray) -> np.ndarray:
        """The same for an array (height, width, c): nothing is decoded."""
        if self == Geometry() or (
            pixels.shape == (self.size, self.size, self.channels or pixels.shape[-1])
            and self.crop is None
        ):
            return pixels
        return self(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _central(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if side > min(width, height):
        raise ValueError(
            f"an image of {height}×{width} has no central {side}×{side}: write a smaller crop."
        )
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


# --- Folders ---


def from_folder(
    folder: str | os.PathLike[str],
    *,
    labels: bool = False,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = 3,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """All images below a folder, in order of their paths; labels: the first folder of each path is its class.

    Files and folders whose names begin with a dot are passed over, links are followed, images are turned as their EXIF
    says, transparency is dropped. size, crop, channels: see `Geometry`. cache: where decoded images stand,
    `cache_folder()` if None; a file that changes is noticed by its size and time, and all are decoded anew.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if images differ in shape and no size is given, one cannot be read, or one stands in no class.
    """
    root = Path(folder).expanduser()
    paths = sorted(_files(root))
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no image: wanted files {', '.join(sorted(SUFFIXES))} in it or below it."
        )
    names = [path.relative_to(root).parts for path in paths]
    classes = tuple(sorted({parts[0] for parts in names})) if labels else ()
    if labels and any(len(parts) < 2 for parts in names):
        first = next(path for path, parts in zip(paths, names, strict=True) if len(parts) < 2)
        raise ValueError(
            f"{first} stands in no class: wanted {root}/<class>/<image>, or labels=False."
        )
    number = {name: i for i, name in enumerate(classes)}
    geometry = Geometry(size, crop, channels)

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int | None]]:
        for i in indices:
            try:
                with Image.open(paths[i]) as image:
                    pixels = geometry(ImageOps.exif_transpose(image))
            except Exception as error:  # a damaged file's are of many kinds
                raise ValueError(f"{paths[i]} cannot be used: {error}") from error
            yield pixels, number[names[i][0]] if labels else None

    identity = f"folder {root.resolve()} {geometry} labels={labels} {_stamp(root, paths)}"
    return _images(identity, len(paths), examples, cache, classes)


def _files(root: Path) -> Iterator[Path]:
    """Images below root; each folder once, wherever links lead."""
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (
            Path(place, name)
            for name in names
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES
        )


# --- TFDS ---


def from_tfds(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image: str = "image",
    label: str | None = "label",
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """A data set of TensorFlow Datasets by its name, `name[/config][:version]`; TensorFlow is not needed to read it.

    It is looked for where it was prepared, in array_record: data_dir, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    download: prepare it if it is not there, by one process at a time; that asks the network, for minutes if there is
    none. split: also "train[:10%]". image, label: names of its features; label=None, or none of that name: no labels.
    size, crop, channels: see `Geometry`. cache: as in `from_folder`.

    Raises:
        FileNotFoundError: if it is not prepared; at once, without asking the network.
        ValueError: if it is prepared in another format, or has no such feature.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    base = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    place = _prepared(name, base)
    if place is None and download:
        _tfds().data_source(
            name, split=split, data_dir=base, builder_kwargs={"file_format": "array_record"}
        )  # prepares it
        place = _prepared(name, base)
    if place is None:
        where = f", data_dir={str(base)!r}" if data_dir else ""
        raise FileNotFoundError(
            f"the TFDS data set {name!r} is not prepared: there is no {base}/{name.replace(':', '/')}/…/"
            f"dataset_info.json. With a network: images.from_tfds({name!r}{where}, download=True); some sets need pip "
            f"install tensorflow for that once. Or copy the folder from a machine that has it and name its data_dir."
        )
    return _from_builder(_open(place), split, image, label, Geometry(size, crop, channels), cache)


def fashion_mnist(
    split: str = "train",
    *,
    folder: str | os.PathLike[str] | None = None,
    size: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), 28×28×1 with 10 classes: "train" (60 000), "test" (10 000).

    From its four idx files, gzipped or not, in `folder`, else where Debian's dataset-fashion-mnist puts them; MNIST's
    are read as well. Prepared once as a TFDS data set in array_record beside the cache.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not whole.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    files = find_idx(Path(folder).expanduser() if folder else FASHION_MNIST)
    content = digest(*(path.read_bytes() for pair in files.values() for path in pair))
    base = (Path(cache).expanduser() if cache else cache_folder()) / "idx" / content
    with LOCK:
        if base.is_dir() and _prepared("idx_images", base) is None:
            shutil.rmtree(base)  # damaged: it appears whole
        if not base.is_dir():
            _tfds()
            from scoresde.data.idx_images.idx_images_dataset_builder import Builder

            with whole_or_not_at_all(base) as partial:
                Builder(folder=files["train"][0].parent, data_dir=partial).download_and_prepare()
    return _from_builder(
        _open(_prepared("idx_images", base)), split, "image", "label", Geometry(size), cache
    )


def _tfds() -> Any:
    try:
        import tensorflow_datasets as tfds  # late: it takes a second
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TFDS data sets are read by pip install 'scoresde[data]'."
        ) from error
    return tfds


def _prepared(name: str, base: Path) -> Path | None:
    """The folder of the newest version under base that fits `name[/config][:version]`."""
    path, _, version = name.partition(":")
    name, _, config = path.partition("/")
    found = [
        info.parent
        for depth in ("*", "*/*")
        for info in (base / name).glob(f"{depth}/dataset_info.json")
    ]
    parts = [(place.relative_to(base / name).parts, place) for place in found]
    parts = [(("", *p)[-2:], place) for p, place in parts if not p[-1].startswith("incomplete")]
    parts = [
        (p, place)
        for p, place in parts
        if fnmatch.fnmatch(p[1], version or "*") and config in ("", p[0])
    ]
    configs = sorted({p[0] for p, _ in parts})
    if len(configs) > 1:
        raise ValueError(
            f"{base / name} is prepared in several configurations: write {name}/{configs[0]} or another "
            f"of {', '.join(configs)}."
        )
    return max(
        parts,
        key=lambda entry: [int(n) for n in entry[0][1].split(".") if n.isdigit()],
        default=(None, None),
    )[1]


def _open(place: Path | None) -> Any:
    """A prepared data set's builder, which reads array_record; by index nothing else can be read."""
    try:
        return _tfds().builder_from_directory(place, file_format="array_record")
    except ValueError as error:
        raise ValueError(
            f"{place} is not prepared in array_record ({error}) Prepare it again with file_format='array_record', or "
            f"convert it: python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={place} "
            f"--out_file_format=array_record."
        ) from error


def _from_builder(
    builder: Any, split: str, image: str, label: str | None, geometry: Geometry, cache: Any
) -> Images:
    place, features = Path(builder.data_dir), builder.info.features
    if image not in features:
        raise ValueError(
            f"{builder.name} has the features {', '.join(sorted(features))}: name its images, image=...."
        )
    label = label if label in features else None
    try:
        records = builder.as_data_source(split=split)
    except ValueError as error:
        if (
            split.partition("[")[0] not in builder.info.splits
            or builder.info.splits[split].num_examples
        ):
            raise
        raise ValueError(f"{builder.name} has no example in the split {split!r}.") from error

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int | None]]:
        try:
            found = records.__getitems__(list(indices))  # a third of the time of one by one
        except RuntimeError as error:  # array_record's
            raise ValueError(
                f"{place} is damaged ({error}): delete the folder and prepare it again."
            ) from error
        for record in found:
            yield (
                geometry.of_array(np.asarray(record[image])),
                None if label is None else int(record[label]),
            )

    files = [path for path in place.iterdir() if "array_record" in path.name]
    identity = f"tfds {builder.info.full_name} {split} {image} {label} {geometry} {_stamp(place, sorted(files))}"
    classes = tuple(getattr(features[label], "names", None) or ()) if label is not None else ()
    return _images(identity, len(records), examples, cache, classes)


# --- Both ---


def _stamp(root: Path, paths: Iterable[Path]) -> str:
    """A digest of names, sizes and times: files that change are noticed."""
    stats = ((path.relative_to(root), path.stat()) for path in paths)
    return digest(
        "".join(f"{path} {stat.st_size} {stat.st_mtime_ns}\n" for path, stat in stats).encode()
    )


def _images(
    identity: str, count: int, examples: Any, cache: Any, classes: tuple[str, ...]
) -> Images:
    folder = (Path(cache).expanduser() if cache else cache_folder()) / "decoded"
    decoded = decode_once(identity, count, examples, folder)
    return Images(decoded.pixels, decoded.labels, classes, decoded.digest)
