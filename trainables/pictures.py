"""Pictures of any format, mode and size to uint8 squares."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from engine.errors import UserError
from engine.host_memory import host_memory

_ROWS_PER_TASK = 256


def decode(pictures: Sequence[tuple[str, Path | BytesIO]], out: np.ndarray) -> list[int]:
    """Decodes pictures to square RGB, with a pool of threads.

    Of several frames the first counts, the camera's orientation is applied, transparency is
    dropped, 16-bit grey is scaled to 8 bits.

    Args:
        pictures: what messages call each picture, and its file.
        out: uint8 N×3×r×r, filled.

    Returns:
        The shorter side of each picture, in pixels: that of the square that is cut out of it.

    Raises:
        UserError: a picture cannot be decoded; the first such one is named.
    """
    sides = [0] * len(pictures)

    def fill(row: int) -> None:
        name, file = pictures[row]
        try:
            with Image.open(file) as picture:
                sides[row] = min(picture.size)
                out[row] = _square(_rgb(ImageOps.exif_transpose(picture)), out.shape[2])
        except Image.UnidentifiedImageError:
            raise UserError(f"{name} is not an image of a known format; remove it") from None
        # Damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error.
        except Exception as error:
            raise UserError(f"cannot decode {name} ({one_line(error)}); remove it") from error

    _for_rows(fill, len(pictures))
    return sides


def resize(images: np.ndarray, resolution: int) -> np.ndarray:
    """Returns uint8 images N×C×H×W as squares N×C×r×r, untouched where they are that already."""
    if images.shape[2:] == (resolution, resolution):
        return np.ascontiguousarray(images)
    out = allocate(len(images), images.shape[1], resolution)

    def fill(row: int) -> None:
        pixels = np.ascontiguousarray(images[row].transpose(1, 2, 0))
        grey = pixels.shape[2] == 1
        out[row] = _square(Image.fromarray(pixels[:, :, 0] if grey else pixels), resolution)

    _for_rows(fill, len(images))
    return out


def allocate(count: int, channels: int, resolution: int, *, split: bool = False) -> np.ndarray:
    """Returns an empty uint8 array N×C×r×r.

    Args:
        split: whether all of it will be copied once, when validation images are drawn from it.

    Raises:
        UserError: it does not fit into memory.
    """
    size, times = count * channels * resolution**2, 2 if split else 1
    try:
        # Linux promises any amount, and kills who uses it.
        if times * size > host_memory():
            raise MemoryError
        return np.empty((count, channels, resolution, resolution), np.uint8)
    except (MemoryError, ValueError):
        again = ", and as much again while they are split" if split else ""
        raise UserError(
            f"{count} images of {resolution} pixels a side take {size / 1e9:.0f} GB{again}: more "
            "than the memory; lower data.stored_resolution (or data.resolution) or give fewer "
            "images"
        ) from None


def one_line(error: BaseException) -> str:
    """Returns a foreign error's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _square(picture: Image.Image, resolution: int) -> np.ndarray:
    """C×r×r: the largest centred square of the picture, resized (bilinear, antialiased).

    Cut first, so that nothing outside of the square counts: whoever uses the network does the same.
    """
    if picture.size != (resolution, resolution):
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((resolution, resolution), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    if picture.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it; 65535 is 257·255.
        grey = np.asarray(picture).astype(np.int64).clip(0, 65535)
        picture = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif picture.mode == "P":
        # Straight to RGB, a palette with transparency makes Pillow warn.
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _for_rows(fill: Callable[[int], None], count: int) -> None:
    def fill_some(rows: range) -> None:
        for row in rows:
            fill(row)

    tasks = (range(i, min(i + _ROWS_PER_TASK, count)) for i in range(0, count, _ROWS_PER_TASK))
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill_some, tasks):
            pass
