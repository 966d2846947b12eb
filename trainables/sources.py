"""Where images come from: known sets, folders, Parquet files and the user's own functions."""

import importlib.util
import os
import statistics
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from engine.errors import UserError, nearest
from engine.networks import import_function
from trainables.images import ImageSet, check_images
from trainables.pictures import allocate, decode, one_line, resize

_SOURCES = (
    "digits",
    "cifar10",
    "cifar100",
    "imagefolder:PATH",
    "parquet:PATH",
    "package.module:function",
)
_DIGITS_TEST_SHARE = 0.2
_ROWS_PER_READ = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set as its source gives it, in squares of the stored resolution.

    Attributes:
        name: for people: where the images are from and what stands in for a missing test split.
    """

    name: str
    train: ImageSet
    test: ImageSet


def read_source(source: str, resolution: int, any_targets: bool) -> Source:
    """Reads a data set; pictures of another size are cropped to squares and resized.

    Args:
        source: as in ``engine.recipe.Data.source``.
        resolution: side of the squares in pixels, as they are stored.

    Raises:
        UserError: the source is not known, not there or not what it should be.
    """
    kind, _, rest = source.partition(":")
    match kind, rest:
        case "digits", "":
            return _digits(resolution)
        case "cifar10", "":
            return _cifar("CIFAR-10", "CIFAR10", resolution)
        case "cifar100", "":
            return _cifar("CIFAR-100", "CIFAR100", resolution)
        case (("imagefolder" | "parquet"), ""):
            raise UserError(f"the data source {kind!r} needs a path, as in {kind}:PATH")
        case (("imagefolder" | "parquet"), _):
            read = _image_folder if kind == "imagefolder" else _parquet
            try:
                return read(Path(rest).expanduser(), resolution)
            except (OSError, RuntimeError) as error:  # not to be read, or of an unknown ~user
                raise UserError(f"cannot read {rest} ({one_line(error)})") from None
        case _ if _is_function(kind, rest):
            return _function(source, resolution, any_targets)
        case _:
            hint = nearest(kind.lower(), _SOURCES)
            if _is_function_name(kind, rest):
                hint += f"; there is no module {kind!r} in {Path.cwd()} or on PYTHONPATH"
            raise UserError(f"unknown data source {source!r}{hint}")


def _is_function_name(module: str, name: str) -> bool:
    """Whether it is written like a function of a package."""
    return all(part.isidentifier() for part in (*module.split("."), name))


def _is_function(module: str, name: str) -> bool:
    """The same, of a package that is on the Python path."""
    if not _is_function_name(module, name):
        return False
    package = module.partition(".")[0]
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _digits(resolution: int) -> Source:
    """scikit-learn's digits (1797 of 8×8, grey 0 to 16), as RGB; the test split is fixed."""
    # 140 MB and seconds that only this source needs, and no worker.
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    grey = np.rint(bundle.images[:, None] * (255 / 16)).astype(np.uint8)
    side = grey.shape[2]
    images = resize(grey, resolution).repeat(3, axis=1)
    digits = ImageSet(images=images, labels=bundle.target.astype(np.int64), original=side)
    test, train = digits.draw(round(_DIGITS_TEST_SHARE * len(digits)), np.random.default_rng(0))
    return Source(name="scikit-learn digits", train=digits.take(train), test=digits.take(test))


def _cifar(name: str, dataset: Literal["CIFAR10", "CIFAR100"], resolution: int) -> Source:
    # Seconds that other sources need not wait for, here and below.
    from torchvision import datasets

    read = getattr(datasets, dataset)
    cache = Path(os.environ.get("HACSCALE_DATA") or "~/.cache/hacscale").expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "download.lock"):
            splits = [read(cache, train=train, download=True) for train in (True, False)]
    except (OSError, HTTPException, RuntimeError) as error:
        raise UserError(
            f"cannot download {name} into {cache} ({one_line(error)}); "
            "use another network, or a copy of it with data=parquet:PATH"
        ) from error
    train, test = (
        _from_arrays(name, split.data, np.asarray(split.targets), resolution, any_targets=False)
        for split in splits
    )
    return Source(name=name, train=train, test=test)


def _image_folder(path: Path, resolution: int) -> Source:
    """``train/CLASS/…`` and ``test/CLASS/…`` or ``val/CLASS/…``.

    Test is preferred, unless it has no folders of classes and val has.
    """
    from torchvision.datasets import folder

    there = [path / name for name in ("test", "val") if (path / name).is_dir()]
    labelled = [split for split in there if any(one.is_dir() for one in split.iterdir())]
    held_out = next(iter(labelled or there), None)
    if held_out is None or not (path / "train").is_dir():
        raise UserError(f"{path} must hold the folders train and test (or val), {_listing(path)}")
    try:
        known, class_number = folder.find_classes(path / "train")
        unknown = sorted(set(folder.find_classes(held_out)[0]) - set(known))
        if unknown:
            raise UserError(f"{held_out} has the class {unknown[0]!r}, which train has not")
        train, test = (
            folder.make_dataset(
                split, class_number, folder.IMG_EXTENSIONS, allow_empty=split == held_out
            )
            for split in (path / "train", held_out)
        )
    except OSError as error:
        raise UserError(f"{path} is not an image folder ({one_line(error)})") from None
    note = ", val not used" if held_out.name == "test" and len(there) == 2 else ""
    return Source(
        name=f"image folder {path}, test split {held_out.name}{note}",
        train=_from_files(path / "train", train, resolution, train=True),
        test=_from_files(held_out, test, resolution, train=False),
    )


def _from_files(
    split: str | Path, samples: Sequence[tuple[str, int]], resolution: int, *, train: bool
) -> ImageSet:
    images = allocate(len(samples), 3, resolution, split=train)
    sides = decode([(file, Path(file)) for file, _ in samples], images)
    labels = np.array([label for _, label in samples], np.int64)
    return _image_set(str(split), images, labels, sides)


def _parquet(path: Path, resolution: int) -> Source:
    """The layout of the Hugging Face hub: ``train*.parquet`` and ``test*.parquet``.

    Without a test split that has labels the validation split takes its place; beside one it is
    not used.
    """
    root = next((d for d in (path, path / "data") if any(d.glob("train*.parquet"))), None)
    if root is None:
        raise UserError(f"{path} must hold train*.parquet, or its folder data, {_listing(path)}")
    train, test, validation = (sorted(root.glob(f"{s}*.parquet")) for s in ("train", "test", "val"))
    if not (test or validation):
        raise UserError(f"{root} must hold test*.parquet or validation*.parquet, {_listing(root)}")
    note = ", validation split not used" if validation else ""
    if not test:
        held_out, note = validation, ", test split validation"
    elif _is_labelled(test):
        held_out = test
    elif validation:
        held_out, note = validation, ", test split validation, as the other has no labels"
    else:
        raise UserError(f"{test[0]} has no labels but −1; put validation*.parquet beside it")
    return Source(
        name=f"Parquet files of {path}{note}",
        train=_read_shards(train, resolution, train=True),
        test=_read_shards(held_out, resolution, train=False),
    )


def _is_labelled(files: Sequence[Path]) -> bool:
    """Whether any label is one: test splits of competitions have −1 in every row."""
    for file in files:
        with _reading(file), pq.ParquetFile(file) as shard:
            _, label = _columns(file, shard.schema_arrow)
            labels = shard.read([label])[label].drop_null().to_numpy()
        if not len(labels) or labels.max() >= 0:
            return True
    return False


def _read_shards(files: Sequence[Path], resolution: int, *, train: bool) -> ImageSet:
    counts: list[int] = []
    for file in files:
        with _reading(file):
            counts.append(pq.read_metadata(file).num_rows)
    images = allocate(sum(counts), 3, resolution, split=train)
    labels = np.empty(len(images), np.int64)
    sides: list[int] = []
    end = 0
    for file in files:
        for pictures, some_labels in _read_rows(file):
            start, end = end, end + len(pictures)
            sides += decode(pictures, images[start:end])
            labels[start:end] = some_labels
    where = str(files[0]) if len(files) == 1 else f"{files[0]} …"
    return _image_set(where, images, labels, sides)


def _read_rows(file: Path) -> Iterator[tuple[list[tuple[str, BytesIO]], np.ndarray]]:
    """Yields the encoded pictures with their names, and the labels, of some rows at a time."""
    with _reading(file), pq.ParquetFile(file) as shard:
        image, label = _columns(file, shard.schema_arrow)
        row = 0
        for batch in shard.iter_batches(_ROWS_PER_READ, columns=[image, label]):
            encoded = batch[image].field("bytes")
            for column, name in ((encoded, image), (batch[label], label)):
                if column.null_count:
                    null = row + column.is_null().index(True).as_py()
                    raise UserError(f"{name} is null in row {null} of {file}; remove the row")
            pictures = [
                (f"the image in row {i} of {file}", BytesIO(picture))
                for i, picture in enumerate(encoded.to_pylist(), start=row)
            ]
            yield pictures, batch[label].cast(pa.int64()).to_numpy()
            row += len(batch)


def _columns(file: Path, schema: pa.Schema) -> tuple[str, str]:
    """The names of the image and the label column."""
    images = [f.name for f in schema if f.name in ("img", "image") and _holds_bytes(f.type)]
    labels = [f.name for f in schema if f.name == "label" and pa.types.is_integer(f.type)]
    if not (images and labels):
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise UserError(
            f"{file} needs a column img or image of struct<bytes, path> and an integer column "
            f"label, found {found or 'none'}"
        )
    return images[0], labels[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    return any(f.name == "bytes" and _is_binary(f.type) for f in kind.fields)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@contextmanager
def _reading(file: Path) -> Generator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the Parquet file {file} ({one_line(error)})") from error


def _function(reference: str, resolution: int, any_targets: bool) -> Source:
    """``((train_images, train_labels), (test_images, test_labels))`` of the user's function."""

    def read(split: str, images: Any, labels: Any) -> ImageSet:
        return _from_arrays(f"{reference}, {split}", images, labels, resolution, any_targets)

    function = import_function(reference, "data source")
    try:
        result = function()
    except (Exception, SystemExit) as error:
        raise UserError(f"data source {reference!r} raised {one_line(error)}") from error
    match result:
        case ((train_images, train_labels), (test_images, test_labels)):
            return Source(
                name=reference,
                train=read("train", train_images, train_labels),
                test=read("test", test_images, test_labels),
            )
        case _:
            raise UserError(
                f"{reference} must return ((train_images, train_labels), (test_images, "
                f"test_labels)), not {type(result).__name__}"
            )


def _from_arrays(
    where: str, images: Any, labels: Any, resolution: int, any_targets: bool
) -> ImageSet:
    """Arrays in either layout, checked."""
    for what, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            found = type(array).__name__
            raise UserError(f"{where}: {what} must be a numpy array, not {found}")
    whole = np.issubdtype(labels.dtype, np.integer)
    if not any_targets and not (whole and labels.ndim == 1):
        raise UserError(
            f"{where}: labels must be integers with one axis, not {labels.dtype} with "
            f"{labels.ndim}; other targets need task.loss and task.metric of your own"
        )
    if not (np.issubdtype(labels.dtype, np.number) or labels.dtype == bool):
        raise UserError(f"{where}: targets must be numbers, not {labels.dtype}")
    try:
        check_images(images)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    channels_first, channels_last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if channels_first == channels_last:
        raise UserError(
            f"{where}: one of the axes 1 and 3 of the images must be the channels, 1 or 3, "
            f"not both or none: the shape is {images.shape}"
        )
    pixels = images if channels_first else images.transpose(0, 3, 1, 2)
    if labels.ndim > 1 and pixels.shape[2] != pixels.shape[3]:
        raise UserError(
            f"{where}: images of {pixels.shape[2]}×{pixels.shape[3]} would be cut to squares and "
            "their targets would not; cut or pad both"
        )
    targets = labels.astype(np.int64 if whole else np.float32)
    return _image_set(where, resize(pixels, resolution), targets, [min(pixels.shape[2:])])


def _image_set(
    where: str, images: np.ndarray, labels: np.ndarray, sides: Sequence[int]
) -> ImageSet:
    original = statistics.median_low(sides) if sides else None
    try:
        return ImageSet(images=images, labels=labels, original=original)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _listing(path: Path) -> str:
    """What is in a folder, for messages."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"but it cannot be listed ({error.strerror})"
    return f"found {', '.join(names[:8]) or 'nothing'}{' …' if len(names) > 8 else ''}"
