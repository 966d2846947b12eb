"""Trained weights as a safetensors file that tells whether it is the one that was written."""

import hashlib
import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.errors import UserError
from engine.folder import Folder

_SEAL = "sha256"


def weights_name(task_id: str) -> str:
    """The name of a training's file among the weights."""
    return f"{task_id}.safetensors"


def write_weights(folder: Folder, name: str, state: Mapping[str, Tensor]) -> None:
    """Writes tensors, with a digest of their bytes in the header.

    Raises:
        StorageError: they cannot be written.
    """
    data = save(dict(state))
    folder.write(name, save(dict(state), {_SEAL: _digest(data)}))


def parse_weights(data: bytes) -> dict[str, Tensor]:
    """Returns the tensors of a file that `write_weights` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        state = load(data)
    except SafetensorError as error:
        raise UserError(f"damaged ({error})") from None
    header = json.loads(data[8 : _start(data)])
    if header.get("__metadata__", {}).get(_SEAL, "") != _digest(data):
        raise UserError("damaged (it is not the one that was written)")
    return state


def has_weights(folder: Folder, name: str) -> bool:
    """Whether there are weights, whole; damaged ones are put aside."""
    data = folder.read(name)
    if data is None:
        return False
    try:
        parse_weights(data)
    except UserError as error:
        folder.set_aside(str(error), name)
        return False
    return True


def _start(data: bytes) -> int:
    """Where the header ends: its length stands in the first eight bytes."""
    return 8 + int.from_bytes(data[:8], "little")


def _digest(data: bytes) -> str:
    """Of the bytes of all tensors and of what the header says of them, in the file's order."""
    header = json.loads(data[8 : _start(data)])
    header.pop("__metadata__", None)
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    sha.update(data[_start(data) :])
    return sha.hexdigest()
