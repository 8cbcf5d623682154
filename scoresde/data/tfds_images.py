"""Images from a data set of TensorFlow Datasets (TFDS), read without TensorFlow."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.data.geometry import DECODING, Geometry
from scoresde.data.image_source import Images, decoded_images, stamp


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
    """Returns the images of a TFDS data set, which has been prepared in the format array_record.

    TensorFlow is not needed to read it. Images are decoded once, and again when the data set
    changes; transparent ones, of 4 channels, are laid on white.

    Args:
        name: the name of the data set, `name[/config][:version]`.
        split: the split, or a part of one such as "train[:10%]".
        data_dir: where it was prepared; None: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        download: whether to prepare it if it is not there, by one process at a time. This asks the
            network, for minutes if there is none.
        image: the name of the feature that holds the images.
        label: the name of the feature that holds the labels. With None, or a name that the data set
            does not have, the images have no labels.
        size: the side of the square images; None if all have one size already (see `Geometry`).
        crop: the side of the central square that is cut out first; None cuts nothing.
        channels: 1 for grey, 3 for colour, None to keep both as they are.
        cache: where decoded images are kept; None: `cache_folder()`.

    Raises:
        FileNotFoundError: if it is not prepared; at once, without asking the network.
        ValueError: if it is prepared in another format, or has no such feature.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    base = Path(data_dir).expanduser() if data_dir else tfds_folder()
    place = find_prepared(name, base)
    if place is None and download:
        _prepare(name, split, base)
        place = find_prepared(name, base)
    if place is None:
        where = f", data_dir={str(base)!r}" if data_dir else ""
        raise FileNotFoundError(
            f"the TFDS data set {name!r} is not prepared: there is no "
            f"{base}/{name.replace(':', '/')}/…/dataset_info.json. With a network write "
            f"images.from_tfds({name!r}{where}, download=True); some sets need pip install "
            f"tensorflow for that once. Or copy the folder from a machine that has it, and write "
            f"data_dir=..."
        )

    geometry = Geometry(size, crop, channels)
    return read_prepared(place, split, image, label, geometry, cache)


def tfds_folder() -> Path:
    """Returns where TFDS keeps data sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


# --- Reading a data set that is prepared ---


def read_prepared(
    place: Path,
    split: str,
    image: str,
    label: str | None,
    geometry: Geometry,
    cache: str | os.PathLike[str] | None,
) -> Images:
    """Returns the images of the data set in `place`, a folder with its dataset_info.json.

    Raises:
        ValueError: as `from_tfds`.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    builder = _open(place)
    features = builder.info.features
    if image not in features:
        raise ValueError(
            f"{builder.name} has the features {', '.join(sorted(features))}, and no {image!r}: "
            f"write the name of its images, image=..."
        )
    label = label if label in features else None
    transparency = isinstance(features[image], import_tfds().features.Image)  # not a Tensor
    records = _records(builder, split)

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int | None]]:
        try:
            found = records.__getitems__(list(indices))  # a third of the time of one by one
        except RuntimeError as error:  # raised by array_record
            raise ValueError(
                f"{place} is damaged ({error}): delete the folder and prepare it again."
            ) from error
        for record in found:
            pixels = geometry.of_array(np.asarray(record[image]), transparency)
            yield pixels, None if label is None else int(record[label])

    folder = Path(builder.data_dir)
    files = _record_files(folder)
    identity = (
        f"tfds {builder.info.full_name} {split} {image} {label} {geometry} {stamp(folder, files)} "
        f"{DECODING}"
    )
    names = None if label is None else getattr(features[label], "names", None)
    return decoded_images(identity, len(records), examples, cache, tuple(names or ()))


def is_readable(place: Path) -> bool:
    """Returns whether a data set was prepared in array_record, the format that is read by index."""
    return bool(_record_files(place))


def _record_files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if "array_record" in path.name)


def find_prepared(name: str, base: Path) -> Path | None:
    """Returns the folder of the newest version below base that fits the name, or None.

    name: `name[/config][:version]`, where the version may hold wildcards.

    Raises:
        ValueError: if several configurations fit.
    """
    path, _, wanted_version = name.partition(":")
    name, _, wanted_config = path.partition("/")

    # The configuration, version and folder of each; without configurations the first is "".
    found = []
    for depth in ("*", "*/*"):
        for info in (base / name).glob(f"{depth}/dataset_info.json"):
            parts = info.parent.relative_to(base / name).parts
            config, version = ("", *parts)[-2:]
            fits = wanted_config in ("", config) and fnmatch.fnmatch(version, wanted_version or "*")
            if fits and not version.startswith("incomplete"):
                found.append((config, version, info.parent))

    configs = sorted({config for config, _, _ in found})
    if len(configs) > 1:
        raise ValueError(
            f"{base / name} is prepared in several configurations: write {name}/{configs[0]} or "
            f"another of {', '.join(configs)}."
        )
    if not found:
        return None

    _, _, newest = max(found, key=lambda entry: _version_numbers(entry[1]))
    return newest


def _version_numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".") if number.isdigit()]


def _prepare(name: str, split: str, base: Path) -> None:
    """Prepares the data set below base: TFDS does so before it returns a source."""
    options = {"file_format": "array_record"}
    import_tfds().data_source(name, split=split, data_dir=base, builder_kwargs=options)


def _open(place: Path) -> Any:
    """Returns the builder of a prepared data set; only array_record can be read by index."""
    try:
        return import_tfds().builder_from_directory(place, file_format="array_record")
    except ValueError as error:
        raise ValueError(
            f"{place} is not prepared in array_record ({error}). Prepare it again with "
            f"file_format='array_record', or convert it: python -m "
            f"tensorflow_datasets.scripts.convert_format --dataset_version_dir={place} "
            f"--out_file_format=array_record."
        ) from error


def _records(builder: Any, split: str) -> Any:
    """Returns the records of a split, which must not be empty."""
    try:
        return builder.as_data_source(split=split)
    except ValueError as error:
        whole = split.partition("[")[0]
        splits = builder.info.splits
        if whole not in splits or splits[split].num_examples:
            raise
        raise ValueError(f"{builder.name} has no example in the split {split!r}.") from error


def import_tfds() -> Any:
    """Returns the module tensorflow_datasets; late, because its import takes a second.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TFDS data sets are read by tensorflow-datasets: pip install 'scoresde[data]'."
        ) from error
    return tensorflow_datasets
