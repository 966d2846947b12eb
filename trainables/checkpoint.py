"""The file that a training is taken up from: sealed, so that a damaged one is never believed."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from engine.store import write_atomic

log = logging.getLogger("hacscale")

_LAYOUT = b"hacscale checkpoint 1"
"""What the sealed state is made of. A file of another layout is as good as none."""


def save_checkpoint(path: Path, task_id: str, state: dict[str, Any]) -> None:
    """Writes tensors and plain values for `load_checkpoint` of the same task.

    Raises:
        UserError: no space, or no permission.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_atomic(path, _seal(task_id, data) + data)


def load_checkpoint(path: Path, task_id: str, device: torch.device) -> dict[str, Any] | None:
    """Returns what was saved, on ``device``.

    PyTorch does not notice a flipped bit in a tensor: the seal does, before anything is read.

    Returns:
        None if there is no file, or (with a warning) one that is damaged or of another task.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    size = hashlib.sha256().digest_size
    seal, data = content[:size], content[size:]
    if seal != _seal(task_id, data):
        log.warning("%s is damaged or of another training; training from the start", path)
        return None
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def _seal(task_id: str, data: bytes) -> bytes:
    sha = hashlib.sha256(b"\0".join([_LAYOUT, task_id.encode(), b""]))
    sha.update(data)
    return sha.digest()
