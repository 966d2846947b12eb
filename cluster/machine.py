"""What one machine is and has, as far as a search depends on it."""

import importlib.util
import os
import platform
import shutil
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.provenance import package_version

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
        memory, shared_memory, disk_free: bytes in all, of /dev/shm, and free where runs are kept
            (None where no file system is asked).
        disk_error: why nothing can be written where runs are kept; empty if it can.
        clock: seconds since the epoch.
    """

    host: str
    versions: dict[str, str]
    cluster_extra: bool
    cores: int
    gpus: tuple[str, ...]
    cuda: str
    memory: int
    shared_memory: int | None
    disk_free: int | None
    disk_error: str
    clock: float


def this_machine(runs_dir: str) -> Machine:
    """Looks at the machine that it runs on.

    Args:
        runs_dir: where runs are kept: a path, or a URI, of which only paths are looked at.
    """
    folder = None if "://" in runs_dir else Path(runs_dir)
    error = "" if folder is None else _write_error(folder)
    return Machine(
        host=socket.gethostname(),
        versions={
            "python": platform.python_version(),
            **{package: package_version(package) for package in _PACKAGES},
        },
        cluster_extra=all(importlib.util.find_spec(name) for name in _OF_CLUSTERS),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        cuda=torch.version.cuda or "",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.exists() else None,
        disk_free=None if folder is None or error else shutil.disk_usage(folder).free,
        disk_error=error,
        clock=time.time(),
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _write_error(folder: Path) -> str:
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
