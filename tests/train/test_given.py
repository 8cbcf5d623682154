"""Whatever is given as data: it trains, or the refusal says what it is and the line to write.

TensorFlow, datasets and PyTorch are large: small classes have their interfaces here, and the last
is tried where it is installed. Grain, pandas and xarray are tried themselves.
"""

import re
import sys
from array import array

import grain
import numpy as np
import pandas
import pytest
import xarray
from small_training import KEY, mlp

import scoresde as sd

X = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
LABELS = np.arange(32) % 2
SHORT = sd.Training(steps=2, batch_size=8, warmup=1, validate_every=2, log_every=2)


def fit(key=KEY, model=None, data=X, cond=None, **options):
    model = model or mlp(width=8)
    return sd.fit(key, model, data, cond=cond, training=SHORT, progress=False, **options)


def refusal(data, **options):
    with pytest.raises(TypeError) as error:
        fit(data=data, **options)
    message = str(error.value)
    assert f"data is a {type(data).__module__}.{type(data).__qualname__}" in message
    assert "wanted" in message
    return message


def run(line, data, **names):
    return eval(line, {"data": data, "np": np, "fit": fit, "sd": sd, **names})


# --- Stand-ins ---


class Indexed:
    """A map-style data set of PyTorch's: no array, `len` and `[i]`."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return self.examples[i]


class Grain(Indexed):
    """grain.MapDataset: indexed, with a `batch` that takes a size."""

    def batch(self, batch_size, *, drop_remainder=False):
        raise AssertionError("batch takes a size")


class Table(Grain):
    """datasets.Dataset: rows are dictionaries, and its shape is (rows, columns)."""

    shape = (32, 2)


class TensorFlow:
    """tf.data.Dataset: read in order."""

    def batch(self, batch_size, drop_remainder=False):
        raise AssertionError("batch takes a size")

    def __len__(self):
        return len(X)

    def as_numpy_iterator(self):
        return iter(X)


class Stream:
    """grain.IterDataset, or a generator of examples."""

    def batch(self, batch_size):
        raise AssertionError("batch takes a size")

    def __iter__(self):
        return iter(X)


class Loader:
    """torch.utils.data.DataLoader."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 4

    def __iter__(self):
        return iter(X.reshape(4, 8, 2))


class Tensor:
    """A tensor of PyTorch's that needs a gradient, or lies on a GPU."""

    def __init__(self, array, on_host=False):
        self.array = array
        self.on_host = on_host
        self.shape = array.shape

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.array, on_host=True)

    def __array__(self, dtype=None, copy=None):
        if not self.on_host:
            raise TypeError("can't convert cuda tensor to numpy")
        return self.array


class Odd:
    """A source as some would write it."""

    shape = (2,)

    def __init__(self, returns):
        self.returns = returns

    def __len__(self):
        return 32

    def batch(self, indices):
        return self.returns(indices)


# --- Data sets by index ---


@pytest.mark.parametrize("kind", [Indexed, Grain])
def test_data_sets_by_index_train_as_their_arrays_do(kind):
    """The same examples, the same loss."""
    fitted = fit(data=kind(X)).history[-1]["loss"]
    assert fitted == fit().history[-1]["loss"]


def test_pairs_are_examples_and_labels():
    pairs = list(zip(X, LABELS, strict=True))
    model = mlp(width=8, num_classes=2)
    fitted = fit(model=model, data=Indexed(pairs)).history[-1]["loss"]
    assert fitted == fit(model=model, cond=LABELS).history[-1]["loss"]


def test_held_out_examples_may_be_indexed_too():
    assert fit(validation=Indexed(X[:8])).history[-1]["valid_loss"] is not None


@pytest.mark.parametrize("kind", [Indexed, Table, list])
def test_rows_with_names_are_refused_with_their_keys(kind):
    rows = kind([{"point": x, "label": y} for x, y in zip(X, LABELS, strict=True)])
    with pytest.raises(TypeError, match="keys point, label") as error:
        fit(data=rows)
    line = re.search(r"example (fit\(.*\))\.$", str(error.value)).group(1)
    run(line, rows, key=KEY, model=mlp(width=8, num_classes=2))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([np.zeros(2), np.zeros(3)], r"data\[1\] has shape \(3,\)"),
        ([*X[:8], np.array([np.nan, 0.0])], r"data\[8\] holds NaN"),
        ([], "not empty"),
        (np.random.default_rng(0).integers(0, 200, (64, 2)).astype(float), "whole numbers"),
    ],
    ids=["shape", "nan", "empty", "whole"],
)
def test_examples_by_index_are_checked_as_arrays_are(examples, message, unchecked):
    with pytest.raises(ValueError, match=message):
        fit(data=Indexed(examples), validation=0.0)


@pytest.mark.parametrize("data", [Indexed(X[:, 0]), range(32), array("f", X[:, 0])])
def test_numbers_by_index_are_refused_with_the_line_for_them(data):
    with pytest.raises(ValueError, match=r"\[:, None\]") as error:
        fit(data=data)
    line = re.search(r"[Ww]rite (np\..*)\.$", str(error.value)).group(1)
    assert run(line, data).shape == (32, 1)


def test_examples_that_a_filter_left_out_are_refused():
    data = Indexed([None, *X])
    with pytest.raises(TypeError, match="is None") as error:
        fit(data=data)
    line = re.search(r"Write data = (\[.*\])\.$", str(error.value)).group(1)
    fit(data=run(line, data))


def test_data_sets_without_an_end_are_refused():
    class Endless(Grain):
        def __len__(self):
            return sys.maxsize

    with pytest.raises(ValueError, match=r"without .repeat\(\)"):
        fit(data=Endless(X))


# --- What is read in order ---


@pytest.mark.parametrize(
    "data",
    [TensorFlow(), Stream(), (x for x in X), iter(X), Loader(Indexed(X)), Loader(None), set()],
    ids=["tf.data", "stream", "generator", "iterator", "loader", "bare_loader", "set"],
)
def test_what_is_read_in_order_is_refused_with_the_line_for_it(data):
    message = refusal(data)
    assert "read in order, while fit reads by index" in message
    if isinstance(data, set):
        return
    lines = re.findall(r"[Ww]rite (data\.dataset|np\.\w+\(list\(.*?\)+) ?", message)
    lines += re.findall(r"and (np\.concatenate\(list\(data\)\)) where", message)
    line = lines[-1] if isinstance(data, Loader) else lines[0]
    fit(data=run(line.rstrip("."), data))


@pytest.mark.parametrize(
    ("returns", "named"),
    [(lambda indices: Stream(), "Stream"), (lambda indices: None, "NoneType")],
)
def test_a_batch_that_is_no_array_is_refused(returns, named):
    with pytest.raises(TypeError, match=rf"batch\(indices\) returned a .*{named}"):
        fit(data=Odd(returns))


def test_a_source_without_a_shape_is_told_so():
    class Shapeless:
        def __len__(self):
            return 32

        def batch(self, indices):
            return X[indices]

    assert "with a method batch, but without shape" in refusal(Shapeless())
    fit(data=Odd(lambda indices: X[indices]))


# --- Arrays in other forms ---


@pytest.mark.parametrize(
    "data",
    [X.tolist(), list(X), tuple(map(tuple, X.tolist())), Tensor(X), memoryview(X)],
    ids=["lists", "rows", "tuples", "tensor", "buffer"],
)
def test_arrays_in_other_forms_train_as_they_are(data):
    assert fit(data=data).history[-1]["loss"] == fit().history[-1]["loss"]


def test_dictionaries_text_and_functions_are_refused(tmp_path):
    data = {"x": X}
    message = refusal(data)
    fit(data=run(re.search(r"Write (data\['x'\])", message).group(1), data))

    path = tmp_path / "x.npy"
    np.save(path, X)
    message = refusal(str(path))
    assert "sd.data.images.from_folder(data)" in message
    fit(data=run(re.search(r"Write (np\.load\(data\))", message).group(1), str(path)))
    refusal(path)

    assert "Call it" in refusal(lambda: X)
    refusal(None)


def test_a_pair_of_arrays_is_not_taken_for_two_examples():
    model = mlp(width=8, num_classes=2)
    data = (X, LABELS)
    with pytest.raises(TypeError, match="tuple of two arrays") as error:
        fit(model=model, data=data)
    run(re.search(r"Write (fit.*)\.$", str(error.value)).group(1), data, key=KEY, model=model)
    with pytest.raises(TypeError, match="tuple of two arrays"):
        fit(data=(X, X))


def test_a_list_of_pairs_is_refused_with_the_lines_that_part_them():
    model = mlp(width=8, num_classes=2)
    data = list(zip(X, LABELS, strict=True))
    with pytest.raises(TypeError, match="list of pairs") as error:
        fit(model=model, data=data)
    run(re.search(r"Write (fit.*)\.$", str(error.value)).group(1), data, key=KEY, model=model)


def test_rows_of_several_shapes_are_refused_with_their_shapes():
    data = [np.append(x, 0.0)[: 2 + i % 2] for i, x in enumerate(X)]
    with pytest.raises(ValueError, match=r"the shapes .*\(3,\)") as error:
        fit(data=data)
    line = re.search(r"write (np\.stack.*)\.$", str(error.value)).group(1)
    fit(data=run(line, data, n=min(map(len, data))))


# --- The real ones ---


def test_grain():
    data = grain.MapDataset.source(X)
    assert fit(data=data).history[-1]["loss"] == fit().history[-1]["loss"]
    with pytest.raises(ValueError, match=r"without \.repeat"):
        fit(data=data.repeat())
    assert "np.stack(list(data))" in refusal(data.to_iter_dataset())


def test_pandas():
    frame = pandas.DataFrame(X, columns=["a", "b"])
    assert fit(data=frame).history[-1]["loss"] == fit().history[-1]["loss"]

    named = frame.assign(name="point")
    with pytest.raises(TypeError, match="not numbers, 'name'") as error:
        fit(data=named)
    fit(data=run(re.search(r"(data\[\[.*\]\])\.$", str(error.value)).group(1), named))

    missing = frame.astype("Float64")
    missing.iloc[3, 0] = pandas.NA
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 32"):
        fit(data=missing)

    series = frame["a"]
    with pytest.raises(ValueError, match="For scalars") as error:
        fit(data=series)
    line = re.search(r"write (.*)\.$", str(error.value)).group(1)
    assert run(line, series).shape == (32, 1)


def test_xarray():
    array = xarray.DataArray(X, dims=("example", "feature"))
    assert fit(data=array).history[-1]["loss"] == fit().history[-1]["loss"]
    data = xarray.Dataset({"x": array})
    fit(data=run(re.search(r"Write (data\['x'\])", refusal(data)).group(1), data))
