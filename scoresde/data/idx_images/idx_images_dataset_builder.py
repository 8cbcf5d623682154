"""Turns four idx files into a TFDS data set in array_record, without TensorFlow or a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scoresde.data.idx import Files, read_idx


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds the splits "train" and "test" of {"image": uint8 (height, width, 1), "label": int}."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012

    def __init__(self, *, files: Files, transposed: bool = False, **options: Any):
        self.files = files
        self.transposed = transposed
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        height, width = read_idx(self.files["test"][0]).shape[1:]
        if self.transposed:
            height, width = width, height
        features = tfds.features.FeaturesDict(
            {
                # Not an Image: encoding and decoding PNGs would take longer than all the rest.
                "image": tfds.features.Tensor(shape=(height, width, 1), dtype=np.uint8),
                "label": tfds.features.Scalar(dtype=np.int64),
            }
        )
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(*paths) for split, paths in self.files.items()}

    def _generate_examples(
        self, images: Path, labels: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        x = read_idx(images)
        y = read_idx(labels)
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise ValueError(
                f"{images} has shape {x.shape}, {labels} has {y.shape}: wanted (n, height, width) "
                f"and (n,)."
            )

        if self.transposed:
            x = x.transpose(0, 2, 1)
        for i in range(len(x)):
            yield i, {"image": x[i, :, :, None], "label": int(y[i])}
