"""What this machine is, and how it was when networks were timed."""

from importlib.util import find_spec

import torch

from engine import bench
from engine.display import plural
from engine.errors import UserError
from engine.power import gpu_state, power_meter
from engine.provenance import package_version
from engine.recipe import Device


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
    if device.threads > bench.most_threads():
        raise UserError(
            f"device.threads is {device.threads}, but this machine gives the program "
            f"{plural(bench.most_threads(), 'core')}; set it to so many at most"
        )
    if device.runtime == "onnxruntime" and find_spec("onnxruntime") is None:
        raise UserError(
            "device.runtime is 'onnxruntime', which is not installed; `pip install onnxruntime`"
        )
