"""What a measurement is valid for: one device, runtime, layout, type, threads and batch."""

from dataclasses import dataclass, fields
from importlib.util import find_spec

import torch

from engine import bench
from engine.codec import STRICT
from engine.errors import UserError
from engine.power import gpu_state, power_meter
from engine.provenance import package_version
from engine.recipe import Device

_REMEDY = {
    "device": "profile this device, or choose the other one by device.place",
    "runtime": "set device.runtime",
    "layout": "set device.layout",
    "dtype": "measure it again",
    "threads": "set device.threads",
    "batch": "set device.batch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileKey:
    """What latency depends on beside the network; measurements of two keys do not compare.

    Attributes:
        device: the name of the CPU or GPU.
    """

    __pydantic_config__ = STRICT

    device: str
    runtime: str
    layout: str
    dtype: str
    threads: int
    batch: int

    def check(self, other: "ProfileKey", what: str) -> None:
        """Checks that a profile of this key may be used for ``other``.

        Args:
            other: what is asked for.
            what: how messages call the owner of this key, for example a file name.

        Raises:
            UserError: they differ; the first difference is named.
        """
        for field in fields(self):
            mine, wanted = getattr(self, field.name), getattr(other, field.name)
            if mine != wanted:
                raise UserError(
                    f"{what} is of {field.name} {mine!r}, but {wanted!r} is asked for; "
                    f"{_REMEDY[field.name]}"
                )


def profile_key(device: Device, name: str | None = None) -> ProfileKey:
    """Returns the key of measurements on ``device``.

    Args:
        device: what to measure on.
        name: of the CPU or GPU; None for that of this machine.

    Raises:
        UserError: the device is not there.
    """
    if device.runtime == "synthetic":
        name = "synthetic"
    elif name is None:
        check_present(device)
        name = bench.device_name(device.accelerator)
    return ProfileKey(
        device=name,
        runtime=device.runtime,
        layout=device.layout,
        dtype="float32",
        threads=device.threads,
        batch=device.batch,
    )


def environment(device: Device) -> dict[str, str]:
    """Returns what a measurement on this machine is valid for, and which clock it uses.

    Raises:
        UserError: the device is not there.
    """
    if device.runtime == "synthetic":
        return {"runtime": "synthetic", "batch": str(device.batch), "clock": "formula"}
    check_present(device)
    found = {
        "runtime": device.runtime,
        "layout": device.layout,
        "dtype": "float32",
        "threads": str(device.threads),
        "batch": str(device.batch),
        **bench.facts(device.accelerator, device.threads),
    }
    if device.runtime in ("compile", "cuda-graph"):
        found["ops"] = "timed eagerly; the whole network as it runs"
    if device.runtime == "onnxruntime":
        found["onnxruntime"] = package_version("onnxruntime")
    if device.accelerator == "cuda":
        found |= gpu_state()
    meter, why = power_meter(device.accelerator)
    found["power"] = meter.name if meter else f"not measured: {why}"
    return found


def check_present(device: Device) -> None:
    """Raises a UserError if this machine has no such device or runtime."""
    if device.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device.accelerator is 'cuda' but PyTorch finds no CUDA device here; "
            "run on a machine with one or set device.accelerator to cpu"
        )
    if device.runtime == "onnxruntime" and find_spec("onnxruntime") is None:
        raise UserError(
            "device.runtime is 'onnxruntime', which is not installed; `pip install onnxruntime`"
        )
