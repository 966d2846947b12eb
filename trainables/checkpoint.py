"""The file that a training is taken up from: sealed, so that a damaged one is never believed."""

import hashlib
import io
import logging
from typing import Any

import torch

from engine.folder import Folder

log = logging.getLogger("hacscale")

_LAYOUT = b"hacscale checkpoint 2"
"""What the sealed state is made of. A file of another layout is as good as none."""


def save_checkpoint(folder: Folder, task_id: str, state: dict[str, Any]) -> None:
    """Writes tensors and plain values for `load_checkpoint` of the same task.

    Raises:
        StorageError: no space, or no permission.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    folder.write(checkpoint_name(task_id), _seal(task_id, data) + data)


def load_checkpoint(folder: Folder, task_id: str, device: torch.device) -> dict[str, Any] | None:
    """Returns what was saved, on ``device``.

    PyTorch does not notice a flipped bit in a tensor: the seal does, before anything is read.

    Returns:
        None if there is no file, or (with a warning) one that is damaged or of another task.
    """
    name = checkpoint_name(task_id)
    content = folder.read(name)
    if content is None:
        return None
    size = hashlib.sha256().digest_size
    seal, data = content[:size], content[size:]
    if seal != _seal(task_id, data):
        log.warning(
            "%s is damaged or of another training; training from the start", folder.path(name)
        )
        return None
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def checkpoint_name(task_id: str) -> str:
    """The name of a training's file among the checkpoints."""
    return f"{task_id}.pt"


def _seal(task_id: str, data: bytes) -> bytes:
    sha = hashlib.sha256(b"\0".join([_LAYOUT, task_id.encode(), b""]))
    sha.update(data)
    return sha.digest()
