"""Data sets: sources, splits, identity, batch order, and what happens to bad input."""

import os
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from engine.errors import UserError
from engine.recipe import Data
from trainables import pictures, sources
from trainables.augment import to_batch
from trainables.data import ImageData, batches, load_data
from trainables.images import ImageSet

SIDE = 5
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def refusal(config: Data) -> str:
    with pytest.raises(UserError) as caught:
        load_data(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def random_images(count: int, seed: int = 0) -> np.ndarray:
    """N×H×W×3."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def encode(picture: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_shard(file: Path, encoded, labels, column="img", label_type=None, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [None if e is None else {"bytes": e, "path": None} for e in encoded]
    table = pa.table({column: pa.array(rows, STRUCT), "label": pa.array(labels, label_type)})
    pq.write_table(table, file, **options)


def parquet_set(folder: Path, train_labels=(0, 1) * 10, test_labels=(0, 1), **options) -> Data:
    """Writes one shard of random images per split; ``options`` go to the training shard."""
    encoded = [encode(Image.fromarray(i)) for i in random_images(len(train_labels))]
    encoded = options.pop("encoded", encoded)
    write_shard(folder / "train.parquet", encoded, train_labels, **options)
    encoded = [encode(Image.fromarray(i)) for i in random_images(len(test_labels), seed=1)]
    write_shard(folder / "test.parquet", encoded, test_labels)
    return Data(source=f"parquet:{folder}", resolution=SIDE)


def pairs(*sets: ImageSet) -> list[tuple[int, bytes]]:
    """The (label, pixels) of all images, in an order of their own."""
    return sorted(
        (int(label), image.tobytes())
        for part in sets
        for image, label in zip(part.images, part.labels, strict=True)
    )


def same(a: ImageData, b: ImageData) -> bool:
    return all(
        np.array_equal(getattr(getattr(a, split), array), getattr(getattr(b, split), array))
        for split in ("train", "validation", "test")
        for array in ("images", "labels")
    )


# Digits and the split -------------------------------------------------------------------------


def test_digits_hold_every_image_of_scikit_learn_once() -> None:
    data = load_data(Data(resolution=8))
    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    expected = ImageSet(images=np.concatenate([grey] * 3, axis=1), labels=labels.astype(np.int64))
    assert pairs(data.train, data.validation, data.test) == pairs(expected)
    assert (data.classes, data.channels, len(data.test)) == (10, 3, 359)
    assert len(data.validation) == round(0.15 * (1797 - 359))


def test_the_digits_test_split_does_not_depend_on_the_seed() -> None:
    a, b = load_data(Data(resolution=8, seed=0)), load_data(Data(resolution=8, seed=1))
    assert pairs(a.test) == pairs(b.test)
    assert pairs(a.validation) != pairs(b.validation)
    assert a.digest != b.digest


def test_digits_are_resized_to_the_resolution() -> None:
    data = load_data(Data(resolution=32))
    assert data.train.images.shape[1:] == (3, 32, 32)
    small = load_data(Data(resolution=8))
    block_means = data.train.images.reshape(-1, 3, 8, 4, 8, 4).mean((3, 5))
    assert abs(block_means.mean() - small.train.images.mean()) < 3


def test_the_same_config_gives_the_same_arrays_and_digest() -> None:
    config = Data(resolution=8, train_images=300, seed=3)
    a, b = load_data(config), load_data(config)
    assert same(a, b)
    assert a.digest == b.digest
    assert len(a.digest) == 16
    int(a.digest, 16)


def test_the_digest_tells_different_data_apart() -> None:
    configs = [
        Data(resolution=8),
        Data(resolution=9),
        Data(resolution=8, validation_share=0.2),
        Data(resolution=8, train_images=300),
        Data(resolution=8, seed=1),
    ]
    assert len({load_data(config).digest for config in configs}) == len(configs)


def test_train_images_draws_from_what_the_validation_split_leaves() -> None:
    everything = load_data(Data(resolution=8))
    some = load_data(Data(resolution=8, train_images=200))
    assert len(some.train) == 200
    assert pairs(some.validation) == pairs(everything.validation)
    assert set(pairs(some.train)) <= set(pairs(everything.train))
    sizes = np.bincount(everything.train.labels) * 200 / len(everything.train)
    assert np.all(np.abs(np.bincount(some.train.labels) - sizes) < 1)
    all_of_them = load_data(Data(resolution=8, train_images=len(everything.train)))
    assert same(all_of_them, everything)


def test_mean_and_std_are_those_of_the_training_split() -> None:
    data = load_data(Data(resolution=8))
    pixels = data.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 2, 3)), rtol=1e-12)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.data(), st.integers(0, 99))
def test_a_draw_is_stratified(labels: list[int], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(labels)))
    n = len(labels)
    images = ImageSet(images=np.zeros((n, 1, 1, 1), np.uint8), labels=np.array(labels, np.int64))
    drawn, rest = images.draw(count, np.random.default_rng(seed))
    assert len(drawn) == count
    assert sorted([*drawn, *rest]) == list(range(n))
    for label in set(labels):
        share = labels.count(label) * count / n
        assert abs(sum(labels[row] == label for row in drawn) - share) < 1
    again, _ = images.draw(count, np.random.default_rng(seed))
    assert np.array_equal(drawn, again)


def test_a_draw_is_fair_to_every_row() -> None:
    images = ImageSet(images=np.zeros((6, 1, 1, 1), np.uint8), labels=np.array([0, 0, 0, 1, 1, 1]))
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(images.draw(2, rng)[0], minlength=6) for _ in range(1200))
    # 400 expected of a binomial with a standard deviation of 16.
    assert np.all(np.abs(counts - 400) < 80)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"validation_share": 0.0001}, "data.validation_share 0.0001 of 1438"),
        ({"validation_share": 0.9999}, "data.validation_share 0.9999 of 1438"),
        ({"train_images": 5000}, "data.train_images 5000 is more than the 1222"),
        ({"train_images": 5}, "5 of 10 classes lost"),
        ({"resolution": 10**6}, "more than the memory"),
        ({"resolution": 10**9}, "more than the memory"),
    ],
)
def test_impossible_splits_are_refused(changes: dict, fragment: str) -> None:
    assert fragment in refusal(Data(**{"resolution": 8, **changes}))


@pytest.mark.parametrize(
    ("images", "labels", "fragment"),
    [
        (np.zeros((2, 3, 4, 4), np.float32), np.zeros(2, np.int64), "uint8"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), "4 axes"),
        (np.zeros((2, 2, 4, 4), np.uint8), np.zeros(2, np.int64), "C of 1 or 3"),
        (np.zeros((2, 3, 4, 5), np.uint8), np.zeros(2, np.int64), "H = W"),
        (np.zeros((2, 3, 0, 0), np.uint8), np.zeros(2, np.int64), "pixels"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(3, np.int64), "2 images but 3 labels"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int32), "int64"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.full((2, 1), np.nan, np.float32), "finite"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.array([0, -3]), "row 1 has -3"),
        (np.zeros((0, 3, 4, 4), np.uint8), np.zeros(0, np.int64), "no image"),
    ],
)
def test_an_invalid_set_cannot_be_made(images, labels, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        ImageSet(images=images, labels=labels)


# Parquet --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sub", "column"), [("", "img"), ("data", "image")])
def test_parquet_shards_are_read_whole_and_in_order(tmp_path: Path, sub: str, column: str) -> None:
    images = random_images(30)
    labels = np.arange(30) % 3
    encoded = [encode(Image.fromarray(image)) for image in images]
    folder = tmp_path / sub
    # The later shard is written first: names decide the order, not the file system.
    for shard, rows in ((1, slice(13, 24)), (0, slice(0, 13))):
        name = folder / f"train-{shard:05d}-of-00002.parquet"
        write_shard(name, encoded[rows], labels[rows], column, row_group_size=4)
    for shard, rows in ((1, slice(28, 30)), (0, slice(24, 28))):
        name = folder / f"test-{shard:05d}-of-00002.parquet"
        write_shard(name, encoded[rows], labels[rows], column)
    data = load_data(Data(source=f"parquet:{tmp_path}", resolution=SIDE, validation_share=0.25))
    pixels = images.transpose(0, 3, 1, 2)
    expected = ImageSet(images=pixels[:24], labels=labels[:24])
    assert pairs(data.train, data.validation) == pairs(expected)
    assert np.array_equal(data.test.images, pixels[24:])
    assert np.array_equal(data.test.labels, labels[24:])
    assert data.classes == 3


def test_a_validation_file_stands_in_for_a_missing_test_file_only(tmp_path: Path) -> None:
    config = parquet_set(tmp_path)
    assert load_data(config).name == f"Parquet files of {tmp_path}"
    (tmp_path / "test.parquet").rename(tmp_path / "validation-0.parquet")
    data = load_data(config)
    assert data.name.endswith("test split validation")
    assert len(data.test) == 2
    write_shard(tmp_path / "test.parquet", [encode(Image.new("RGB", (5, 5)))] * 3, [0, 1, 0])
    data = load_data(config)
    assert data.name.endswith("validation split not used")
    assert len(data.test) == 3


def test_a_test_split_without_labels_is_told_before_its_pictures_are_read(tmp_path: Path) -> None:
    config = parquet_set(tmp_path)
    picture = encode(Image.new("RGB", (5, 5)))
    write_shard(tmp_path / "test.parquet", [b"no picture"] * 3, [-1, -1, -1])
    with pytest.raises(UserError, match=r"has no labels but −1; put validation\*\.parquet"):
        load_data(config)
    write_shard(tmp_path / "validation-0.parquet", [picture] * 2, [0, 1])
    data = load_data(config)
    assert data.name.endswith("test split validation, as the other has no labels")
    assert list(data.test.labels) == [0, 1]
    write_shard(tmp_path / "test.parquet", [picture] * 3, [-1, 1, 0])  # one is lost, not all
    with pytest.raises(UserError, match="labels must not be negative, but row 0"):
        load_data(config)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64()])
def test_any_integer_type_serves_for_labels(tmp_path: Path, kind: pa.DataType) -> None:
    labels = load_data(parquet_set(tmp_path, label_type=kind)).train.labels
    assert labels.dtype == np.int64
    assert set(labels) == {0, 1}


GOOD = encode(Image.fromarray(random_images(1)[0]))
JPEG = encode(Image.fromarray(np.tile(random_images(1)[0], (20, 20, 1))), "jpeg")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"encoded": [GOOD] * 19 + [b"no image"]}, ["row 19 of", "train.parquet", "remove it"]),
        ({"encoded": [GOOD, GOOD[:60]] + [GOOD] * 18}, ["the image in row 1 of", "train.parquet"]),
        ({"encoded": [GOOD, JPEG[:-2000]] + [GOOD] * 18}, ["row 1 of", "truncated"]),
        ({"encoded": [b""] + [GOOD] * 19}, ["row 0 of"]),
        ({"encoded": [GOOD] * 7 + [None] + [GOOD] * 12}, ["img is null in row 7 of"]),
        ({"train_labels": [0, 1] * 9 + [0, None]}, ["label is null in row 19 of"]),
        ({"train_labels": [0, 1] * 9 + [0, -1]}, ["not be negative", "row 19 has -1"]),
        ({"train_labels": [0, 1] * 9 + [0, 3]}, ["go to 3", "no training image has the label 2"]),
        ({"train_labels": [1, 2] * 10}, ["no training image has the label 0"]),
        ({"train_labels": [0] * 19 + [10**15]}, ["no training image has the label 1"]),
        (
            {"train_labels": [0] * 19 + [2**64 - 1], "label_type": pa.uint64()},
            ["cannot read the Parquet file", "18446744073709551615"],
        ),
        ({"train_labels": [0] * 20}, ["all training images have the label 0"]),
        ({"train_labels": ["a", "b"] * 10}, ["label: string", "integer column label"]),
        ({"train_labels": [0.0, 1.0] * 10}, ["label: double"]),
        ({"train_labels": []}, ["train.parquet", "label: null"]),
        ({"train_labels": [], "label_type": pa.int64()}, ["train.parquet", "there is no image"]),
        ({"column": "picture"}, ["img or image", "picture: struct<bytes: binary", "label: int64"]),
        ({"test_labels": [0, 5]}, ["row 1 of the test split has the label 5", "0 to 1"]),
    ],
)
def test_bad_parquet_is_refused(tmp_path: Path, options: dict, fragments: list[str]) -> None:
    message = refusal(parquet_set(tmp_path, **options))
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("bad", [0, 3, 4, 13, 19])
def test_the_row_is_counted_from_the_start_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    monkeypatch.setattr(sources, "_ROWS_PER_READ", 4)
    pictures: list[bytes | None] = [GOOD] * 20
    pictures[bad] = b"no image"
    config = parquet_set(tmp_path, encoded=pictures)
    write_shard(tmp_path / "train-0.parquet", [GOOD] * 6, [0, 1] * 3)
    assert f"row {bad} of {tmp_path}/train.parquet" in refusal(config)
    pictures[bad] = None
    config = parquet_set(tmp_path, encoded=pictures)
    assert f"row {bad} of {tmp_path}/train.parquet" in refusal(config)


def test_null_bytes_inside_the_struct_are_refused(tmp_path: Path) -> None:
    config = parquet_set(tmp_path)
    rows = pa.array([{"bytes": None, "path": "a.png"}] * 2, STRUCT)
    pq.write_table(pa.table({"img": rows, "label": [0, 1]}), tmp_path / "train.parquet")
    assert "img is null in row 0" in refusal(config)


def test_a_column_of_plain_bytes_is_refused(tmp_path: Path) -> None:
    config = parquet_set(tmp_path)
    pq.write_table(pa.table({"img": [GOOD], "label": [0]}), tmp_path / "train.parquet")
    assert "found img: binary, label: int64" in refusal(config)


@pytest.mark.parametrize("keep", [0, 3, 40, 400, -1, -9])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, keep: int) -> None:
    config = parquet_set(tmp_path)
    file = tmp_path / "train.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    assert str(file) in refusal(config)


def test_missing_parquet_files_are_refused(tmp_path: Path) -> None:
    config = parquet_set(tmp_path)
    (tmp_path / "test.parquet").unlink()
    assert "must hold test*.parquet or validation*.parquet, found train.parquet" in refusal(config)
    (tmp_path / "train.parquet").unlink()
    assert "must hold train*.parquet" in refusal(config)
    assert "No such file" in refusal(Data(source=f"parquet:{tmp_path}/nowhere"))
    assert "needs a path, as in parquet:PATH" in refusal(Data(source="parquet:"))
    assert "needs a path, as in parquet:PATH" in refusal(Data(source="parquet"))


# Pictures -------------------------------------------------------------------------------------


def decoded(tmp_path: Path, picture: bytes, resolution: int) -> np.ndarray:
    """H×W×3, as a training image of a Parquet file becomes it."""
    parquet_set(tmp_path, encoded=[picture] * 20)
    data = load_data(Data(source=f"parquet:{tmp_path}", resolution=resolution))
    return data.train.images[0].transpose(1, 2, 0)


def test_pictures_of_every_mode_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(25, dtype=np.uint8).reshape(5, 5) * 10
    rgb = random_images(1)[0]
    alpha = np.full((5, 5), 7, np.uint8)
    palette = Image.fromarray(rgb).quantize(25)
    grey_rgb = np.stack([grey] * 3, axis=2)
    cases = [
        (encode(Image.fromarray(grey)), grey_rgb),
        (encode(Image.fromarray(np.dstack([grey, alpha]))), grey_rgb),
        (encode(Image.fromarray(np.dstack([rgb, alpha]))), rgb),
        (encode(palette), np.asarray(palette.convert("RGB"))),
        (encode(palette, transparency=b"\x00\x80"), np.asarray(palette.convert("RGB"))),
        (encode(Image.fromarray(grey > 100)), np.where(grey_rgb > 100, 255, 0)),
        (encode(Image.fromarray(grey.astype(np.uint16) * 257 + 100)), grey_rgb),
        (encode(Image.fromarray(grey.astype(np.int32) * 257), "tiff"), grey_rgb),
        (
            encode(Image.fromarray(np.dstack([255 - rgb, 0 * grey]), "CMYK"), "tiff"),
            rgb,
        ),
    ]
    for picture, expected in cases:
        assert np.array_equal(decoded(tmp_path, picture, 5), expected)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    picture = encode(Image.fromarray(np.zeros((5, 5), np.float32)), "tiff")
    assert "floating-point" in refusal(parquet_set(tmp_path, encoded=[picture] * 20))


def test_pictures_are_cropped_at_the_centre_and_averaged(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:6] = 40
    wide[:, 6:8] = 200
    wide[:, :4, 0] = wide[:, 8:, 1] = 255
    assert np.array_equal(decoded(tmp_path, encode(Image.fromarray(wide)), 4), wide[:, 4:8])
    tall = wide.transpose(1, 0, 2)
    assert np.array_equal(decoded(tmp_path, encode(Image.fromarray(tall)), 4), tall[4:8])
    # Antialiased: halving a checkerboard of single pixels gives grey, not black or white.
    board = np.uint8(255) * (np.indices((16, 16)).sum(0) % 2).astype(np.uint8)
    small = decoded(tmp_path, encode(Image.fromarray(board)), 8)
    assert np.all(np.abs(small[1:-1, 1:-1].astype(int) - 128) < 20)


def test_pictures_kept_larger_are_resized_once_for_each_resolution(tmp_path: Path) -> None:
    raw = np.random.default_rng(3).integers(0, 256, (20, 12, 12, 3), np.uint8)
    encoded = [encode(Image.fromarray(picture)) for picture in raw]
    small = replace(parquet_set(tmp_path, encoded=encoded), resolution=6)
    large = replace(small, stored_resolution=12)
    kept, lost = load_data(large), load_data(small)
    assert kept.digest != lost.digest
    assert lost.train.images.shape[2:] == (6, 6)
    assert pairs(kept.train, kept.validation) == pairs(
        ImageSet(images=raw.transpose(0, 3, 1, 2), labels=np.arange(20) % 2)
    )

    def seen(data: ImageData, resolution: int) -> np.ndarray:
        images = torch.from_numpy(data.train.images)
        return to_batch(images, resolution, (0.0,) * 3, (1.0,) * 3).numpy()

    # Halving by a triangle two pixels wide on either side: weights 1, 3, 3, 1 of 8.
    pixels = kept.train.images / 255
    inner = np.tensordot([1, 3, 3, 1], [pixels[:, :, i : i + 8 : 2] for i in range(1, 5)], 1) / 8
    inner = np.tensordot([1, 3, 3, 1], [inner[..., i : i + 8 : 2] for i in range(1, 5)], 1) / 8
    np.testing.assert_allclose(seen(kept, 6)[:, :, 1:-1, 1:-1], inner, atol=1e-6)
    # At its own side a picture is what it was, which no enlargement of a small one is.
    np.testing.assert_allclose(seen(kept, 12), pixels, atol=1e-6)
    assert np.abs(seen(lost, 12) - pixels).mean() > 0.1


def test_more_pictures_than_the_memory_holds_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "host_memory", lambda: 10 * 3 * 8 * 8)
    assert pictures.allocate(10, 3, 8).shape == (10, 3, 8, 8)
    with pytest.raises(UserError, match=r"more than the memory; lower data\.stored_resolution"):
        pictures.allocate(11, 3, 8)
    assert pictures.allocate(5, 3, 8, split=True).shape == (5, 3, 8, 8)
    with pytest.raises(UserError, match="and as much again while they are split: more than"):
        pictures.allocate(6, 3, 8, split=True)


def test_the_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    rgb = random_images(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture = encode(Image.fromarray(rgb), exif=exif)
    assert np.array_equal(decoded(tmp_path, picture, 5), np.rot90(rgb, -1))


# Image folders --------------------------------------------------------------------------------


def image_folder(path: Path, test: str = "test", classes: tuple[str, ...] = ("ant", "bee")) -> Data:
    for split, count in (("train", 10), (test, 2)):
        for number, name in enumerate(classes):
            (path / split / name).mkdir(parents=True)
            for i, image in enumerate(random_images(count, seed=number)):
                Image.fromarray(image).save(path / split / name / f"{i}.png")
    return Data(source=f"imagefolder:{path}", resolution=SIDE)


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_is_read_by_sorted_class(tmp_path: Path, test: str) -> None:
    data = load_data(image_folder(tmp_path, test, classes=("bee", "ant")))
    assert data.name == f"image folder {tmp_path}, test split {test}"
    # "ant" was written second, with seed 1, and sorts first.
    expected = np.concatenate([random_images(2, seed=1), random_images(2, seed=0)])
    assert np.array_equal(data.test.images, expected.transpose(0, 3, 1, 2))
    assert list(data.test.labels) == [0, 0, 1, 1]
    assert sorted(np.bincount([*data.train.labels, *data.validation.labels])) == [10, 10]


def test_the_size_that_most_pictures_came_in_is_known(tmp_path: Path) -> None:
    """The shorter side, of the training pictures, before anything was cut or made smaller."""
    config = image_folder(tmp_path)
    assert load_data(config).original == min(random_images(1)[0].shape[:2])
    for name, size in (("0", (40, 30)), ("1", (90, 50))):
        for picture in (tmp_path / "train" / "ant").glob(f"*{name}*.png"):
            Image.new("RGB", size).save(picture)
    large = [p for p in sorted((tmp_path / "train").rglob("*.png")) if p.stem not in ("0", "1")]
    for picture in large[:9]:
        Image.new("RGB", (30, 70)).save(picture)
    assert load_data(config).original == 30
    assert load_data(Data(source="digits")).original == 8


def test_a_test_split_without_classes_leaves_its_place_to_val(tmp_path: Path) -> None:
    config = image_folder(tmp_path)
    whole = load_data(config)
    assert whole.name.endswith("test split test")
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    beside = load_data(config)
    assert beside.name.endswith("test split test, val not used")
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()
    shutil.copy(next((tmp_path / "val").glob("*/*")), tmp_path / "test")
    fallen_back = load_data(config)
    assert fallen_back.name.endswith("test split val")
    assert whole.digest == beside.digest == fallen_back.digest


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_a_folder_that_may_not_be_read_is_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    for name in ("is_dir", "glob"):
        monkeypatch.setattr(Path, name, refuse)
    assert "Permission denied" in refusal(Data(source=f"{kind}:{tmp_path}"))
    monkeypatch.undo()
    assert "cannot read ~nobody-of-that-name" in refusal(
        Data(source=f"{kind}:~nobody-of-that-name/x")
    )


def test_bad_image_folders_are_refused(tmp_path: Path) -> None:
    config = image_folder(tmp_path)
    broken = tmp_path / "train/bee/3.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:50])
    assert f"cannot decode {broken}" in refusal(config)
    broken.write_text("text")
    assert f"{broken} is not an image" in refusal(config)
    broken.write_bytes(good)
    (tmp_path / "test/bee").rename(tmp_path / "test/wasp")
    assert "has the class 'wasp', which train has not" in refusal(config)
    (tmp_path / "train/cow").mkdir()
    (tmp_path / "test/wasp").rename(tmp_path / "test/bee")
    assert "no valid file for the classes cow" in refusal(config)
    (tmp_path / "test").rename(tmp_path / "other")
    assert "must hold the folders train and test (or val), found other, train" in refusal(config)
    (tmp_path / "test").mkdir()
    assert "any class folder" in refusal(config)
    assert "No such file" in refusal(Data(source=f"imagefolder:{tmp_path}/nowhere"))
    assert "needs a path" in refusal(Data(source="imagefolder"))


# Functions and names --------------------------------------------------------------------------

MODULE = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (24, 6, 6, 3), np.uint8)
y = np.arange(24) % 2
def last(): return (x[:20], y[:20]), [x[20:], y[20:]]
def first(): return (x[:20].transpose(0, 3, 1, 2), y[:20]), (x[20:].transpose(0, 3, 1, 2), y[20:])
def grey(): return (x[:20, :, :, :1], y[:20].astype(np.uint8)), (x[20:, :, :, :1], y[20:])
def oblong(): return (x[:20, :, :4], y[:20]), (x[20:, :, :4], y[20:])
def raises(): raise RuntimeError("first line\\nsecond line")
def nothing(): return None
def flat(): return x, y
def floats(): return (x[:20] / 255, y[:20]), (x[20:] / 255, y[20:])
def lists(): return (x[:20].tolist(), y[:20]), (x[20:], y[20:])
def ranks(): return (x[:20, 0], y[:20]), (x[20:, 0], y[20:])
def channels(): return (x[:20, :, :, :2], y[:20]), (x[20:, :, :, :2], y[20:])
def both(): return (x[:20, :3], y[:20]), (x[20:, :3], y[20:])
def lengths(): return (x[:20], y[:19]), (x[20:], y[20:])
def empty(): return (x[:20], y[:20]), (x[:0], y[:0])
def float_labels(): return (x[:20], y[:20] / 1), (x[20:], y[20:])
def bool_labels(): return (x[:20], y[:20] > 0), (x[20:], y[20:])
def one_hot(): return (x[:20], np.eye(2, dtype=int)[y[:20]]), (x[20:], y[20:])
def masks(): return (x[:20], x[:20, :, :4, 0] / 1), (x[20:], x[20:, :, :4, 0] / 1)
def oblong_masks(): return (x[:20, :, :4], x[:20, :, :4, 0]), (x[20:, :, :4], x[20:, :, :4, 0])
def half_masks(): return (x[:20], x[:20, :, :, 0] / 1), (x[20:], y[20:] / 1)
def mixed(): return (x[:20], y[:20]), (x[20:, :, :, :1], y[20:])
value = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_images"


def test_both_layouts_of_a_function_are_the_same_data(module: str) -> None:
    first, last = (load_data(Data(source=f"{module}:{f}", resolution=6)) for f in ("first", "last"))
    assert same(first, last)
    x = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), np.uint8)
    assert np.array_equal(first.test.images, x[20:].transpose(0, 3, 1, 2))
    assert first.name == "own_images:first"


def test_grey_stays_grey_and_oblong_becomes_square(module: str) -> None:
    grey = load_data(Data(source=f"{module}:grey", resolution=3))
    assert grey.channels == len(grey.mean) == 1
    assert grey.test.images.shape == (4, 1, 3, 3)
    square = load_data(Data(source=f"{module}:oblong", resolution=4)).test.images
    x = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), np.uint8)
    assert np.array_equal(square, x[20:, 1:5, :4].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("function", "fragment"),
    [
        ("raises", "RuntimeError: first line second line"),
        ("nothing", "must return ((train_images, train_labels)"),
        ("flat", "must return"),
        ("floats", "train: images must be uint8 from 0 to 255, not float64"),
        ("lists", "train: images must be a numpy array, not list"),
        ("ranks", "train: images must have 4 axes"),
        ("channels", "(20, 6, 6, 2)"),
        ("both", "(20, 3, 6, 3)"),
        ("lengths", "train: there are 20 images but 19 labels"),
        ("empty", "test: there is no image"),
        ("float_labels", "labels must be integers with one axis, not float64"),
        ("bool_labels", "labels must be integers with one axis, not bool"),
        ("one_hot", "labels must be integers with one axis, not int64 with 2"),
        ("masks", "float64 with 3; other targets need task.loss and task.metric of your own"),
        ("mixed", "3 channels but the test images 1"),
        ("lost", "no function 'lost'; did you mean 'last'?"),
        ("value", "no function 'value'"),
    ],
)
def test_bad_functions_are_refused(module: str, function: str, fragment: str) -> None:
    assert fragment in refusal(Data(source=f"{module}:{function}", resolution=6))


def test_targets_of_images_that_would_be_cut_are_refused(module: str) -> None:
    with pytest.raises(UserError, match="images of 6×4 would be cut to squares and their targets"):
        load_data(Data(source=f"{module}:oblong_masks", resolution=4), any_targets=True)


def test_targets_of_the_splits_are_of_one_kind(module: str) -> None:
    with pytest.raises(UserError, match="3 axes but those of the test split float32 with 1"):
        load_data(Data(source=f"{module}:half_masks", resolution=6), any_targets=True)


def test_a_module_that_fails_to_import_is_named(module: str, tmp_path: Path) -> None:
    (tmp_path / "broken_images.py").write_text("import missing_dependency")
    assert "missing_dependency" in refusal(Data(source="broken_images:load"))
    assert "own_images.inner" in refusal(Data(source=f"{module}.inner:load"))


@pytest.mark.parametrize(
    ("source", "fragment"),
    [
        ("digit", "did you mean 'digits'?"),
        ("CIFAR10", "did you mean 'cifar10'?"),
        ("imagefoldr:/data/birds", "did you mean 'imagefolder:PATH'?"),
        ("parqet:birds", "did you mean 'parquet:PATH'?"),
        ("digits:8", "did you mean 'digits'?"),
        ("no_such_package.images:load", "package.module:function"),
        ("no_such_package.images:load", "there is no module 'no_such_package.images' in /"),
        ("", "known: cifar10, cifar100, digits"),
        (":", "known:"),
        ("a b:c", "known:"),
    ],
)
def test_an_unknown_source_is_refused(source: str, fragment: str) -> None:
    message = refusal(Data(source=source))
    assert f"unknown data source {source!r}" in message
    assert fragment in message


# CIFAR ----------------------------------------------------------------------------------------


class FakeCifar:
    """What this project uses of torchvision's class, without a download."""

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        assert download
        assert root.is_dir()
        self.data = random_images(20 if train else 4, seed=int(train))
        self.targets = [0, 1] * (10 if train else 2)


def test_cifar_arrays_are_turned_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HACSCALE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "CIFAR100", FakeCifar)
    data = load_data(Data(source="cifar100", resolution=SIDE))
    assert data.name == "CIFAR-100"
    assert np.array_equal(data.test.images, random_images(4, seed=0).transpose(0, 3, 1, 2))


def test_a_download_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HACSCALE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    message = refusal(Data(source="cifar10"))
    assert f"cannot download CIFAR-10 into {tmp_path}" in message
    assert "refused" in message
    (tmp_path / "file").touch()
    monkeypatch.setenv("HACSCALE_DATA", str(tmp_path / "file"))
    assert "cannot download CIFAR-10 into" in refusal(Data(source="cifar10"))


def test_the_real_files_are_read(tmp_path: Path) -> None:
    default = Path(__file__).parents[2] / "shared/data/cifar10"
    folder = Path(os.environ.get("HACSCALE_CIFAR10", default))
    if not folder.is_dir():
        pytest.skip(f"CIFAR-10 (JPEG) is neither at HACSCALE_CIFAR10 nor at {default}")
    shard = next(folder.glob("test*.parquet"))
    table = pq.read_table(shard)
    pq.write_table(table[:1000], tmp_path / "train.parquet")
    (tmp_path / "test.parquet").symlink_to(shard)
    data = load_data(Data(source=f"parquet:{tmp_path}"))
    assert (len(data.train), len(data.validation)) == (850, 150)
    assert data.test.images.shape == (10000, 3, 32, 32)
    assert list(np.bincount(data.test.labels)) == [1000] * 10
    for row in (0, 4095, 4096, 9999):
        picture = Image.open(BytesIO(table["img"][row]["bytes"].as_py()))
        assert np.array_equal(data.test.images[row], np.asarray(picture).transpose(2, 0, 1))
        assert data.test.labels[row] == table["label"][row].as_py()


# Batches --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 100),
    st.integers(0, 2**40),
    st.integers(0, 9),
)
def test_workers_together_see_the_batches_of_one(
    share: int, world: int, extra: int, seed: int, epoch: int
) -> None:
    size = share * world + extra % world
    n = size + extra
    alone = [batch.tolist() for batch in batches(n, size, seed, epoch)]
    assert len(alone) == n // size
    assert all(len(batch) == size for batch in alone)
    seen = [row for batch in alone for row in batch]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(n))
    workers = [list(batches(n, size, seed, epoch, rank, world)) for rank in range(world)]
    together = [
        [row for part in parts for row in part.tolist()] for parts in zip(*workers, strict=True)
    ]
    assert together == alone
    assert all(len(part) in (share, share + 1) for worker in workers for part in worker)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(next(batches(50, 50, seed, epoch)).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_impossible_batches_are_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match="lower batch_size to at most 100"):
        batches(100, 128, 0, 0)
    with pytest.raises(UserError, match="3 workers cannot share a batch of 2;"):
        batches(1000, 2, 0, 0, 0, 3)
    with pytest.raises(ValueError, match="rank"):
        batches(1000, 128, 0, 0, 2, 2)
