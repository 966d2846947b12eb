"""What one machine is and has, as far as a search depends on it."""

import importlib.util
import os
import platform
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import StorageError
from engine.folder import Folder
from engine.host_memory import host_memory
from engine.local_folder import LocalFolder
from engine.provenance import package_version
from engine.storage import open_folder

_SHARED_MEMORY = Path("/dev/shm")
_PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow", "optuna")
_OF_CLUSTERS = ("aiohttp", "grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine, at one moment.

    Attributes:
        versions: of Python and of the packages that must agree; by name.
        cluster_extra: whether what ``hacscale[cluster]`` installs is there.
        gpus: names of the GPUs that PyTorch sees.
        cuda: version that PyTorch is built for, empty for a build without.
        memory, shared_memory, disk_free: bytes that it or its container may use, of /dev/shm, and
            free where runs are kept (None where that is no file system).
        runs_error: why nothing can be written where runs are kept; empty if it can.
        clock: seconds since the epoch.
    """

    versions: dict[str, str]
    cluster_extra: bool
    cores: int
    gpus: tuple[str, ...]
    cuda: str
    memory: int
    shared_memory: int | None
    disk_free: int | None
    runs_error: str
    clock: float


def this_machine(runs_dir: str) -> Machine:
    """Looks at the machine that it runs on.

    Args:
        runs_dir: where runs are kept, a path or a URI.
    """
    folder = open_folder(runs_dir)
    error = _write_error(folder)
    local = isinstance(folder, LocalFolder) and not error
    return Machine(
        versions={
            "python": platform.python_version(),
            **{package: package_version(package) for package in _PACKAGES},
        },
        cluster_extra=all(importlib.util.find_spec(name) for name in _OF_CLUSTERS),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        cuda=torch.version.cuda or "",
        memory=host_memory(),
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.exists() else None,
        disk_free=shutil.disk_usage(folder.location).free if local else None,
        runs_error=error,
        clock=time.time(),
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _write_error(folder: Folder) -> str:
    probe = f".probe-{uuid.uuid4().hex}"
    try:
        folder.write(probe, b"x")
        found = folder.read(probe)
        folder.delete(probe)
    except (StorageError, OSError) as error:
        return str(error)
    return "" if found == b"x" else f"what is written to {folder} cannot be read back"
