"""Networks as ONNX, as a torch.export archive and as ``model.py``, and back to functions."""

import importlib.util
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from engine.errors import UserError, first_line

OPSET = 18
"""Of ONNX: the oldest that PyTorch's exporter writes, and so the one that most runtimes know."""

_TOOLS = ("onnx", "onnxscript", "onnxruntime")
_SHAPES = ({0: Dim("batch")},)

Logits = Callable[[Tensor], Tensor]


def require_tools() -> None:
    """Raises a UserError if a package is missing that writes or checks ONNX."""
    missing = [tool for tool in _TOOLS if importlib.util.find_spec(tool) is None]
    if missing:
        raise UserError(
            f"an export needs {missing[0]}, which is not installed; `pip install "
            f"{' '.join(missing)}`, in the environment of hacscale"
        )


def exported(network: nn.Module, images: Tensor) -> ExportedProgram:
    """Traces ``network`` by torch.export, for batches of any size.

    Args:
        network: in evaluation mode.
        images: an input of at least two images, because PyTorch takes one for a constant.

    Raises:
        UserError: torch.export cannot follow the network.
    """
    try:
        program = torch.export.export(network, (images,), dynamic_shapes=_SHAPES)
    except Exception as error:
        raise _refused("torch.export", error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def to_pt2(program: ExportedProgram) -> bytes:
    """Writes what `torch.export.load` reads.

    The weights in it are plain bytes and the graph is JSON. Only the example input would be
    pickled, so that is left out.
    """
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def to_onnx(program: ExportedProgram, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    """Writes ONNX with the input ``images``, the output ``logits`` and any batch size.

    Raises:
        UserError: an op has no counterpart in ONNX, or the network is larger than the 2 GB that
            one file can hold.
    """
    import onnx

    try:
        written = torch.onnx.export(
            program,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=_SHAPES,
            external_data=False,
            verbose=False,
        )
        assert written is not None
        proto = written.model_proto
        onnx.helper.set_model_props(proto, dict(metadata))
        onnx.checker.check_model(proto, full_check=True)
        return proto.SerializeToString()
    except Exception as error:
        raise _refused("ONNX", error) from error


def _refused(what: str, error: Exception) -> UserError:
    why = first_line(error)
    remedy = "upgrade onnxscript" if isinstance(error, ImportError) else "change that layer"
    return UserError(f"the network cannot be written for {what}: {why}; {remedy}")


def from_onnx(data: bytes) -> Logits:
    """Returns an ONNX network as a function that ONNX Runtime computes on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return logits


def from_source(source: str, weights: bytes) -> nn.Module:
    """Returns the network of a ``model.py`` with the weights of a safetensors file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.py")
        path.write_text(source, encoding="utf-8")
        path.with_name("weights.safetensors").write_bytes(weights)
        spec = importlib.util.spec_from_file_location("exported_model", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load(path.with_name("weights.safetensors"))
