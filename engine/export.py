"""The result of a run as files that need nothing of this program: ``hacscale export``."""

import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor, fx

from engine.codec import STRICT, canonical, decode, pretty
from engine.errors import UserError
from engine.export_formats import (
    OPSET,
    Logits,
    exported,
    from_onnx,
    from_source,
    require_tools,
    to_onnx,
    to_pt2,
)
from engine.factory import check_factory
from engine.graph import load_graph
from engine.limits import Limits
from engine.local_folder import write_atomic
from engine.model_source import all_weights, model_source, plain_network
from engine.provenance import package_version
from engine.recipe import Recipe
from engine.results import Latency, Result, RunRecord
from engine.spec import ModelRef
from engine.store import RunInfo, RunStore
from engine.trained_weights import parse_weights

SAME = 1e-6
CLOSE = 1e-4
"""Largest difference of logits from those in PyTorch, over the largest logit or over 1 if that is
larger: for the same ops, and for those of ONNX Runtime, which sums in another order."""

_FILES = ("model.py", "weights.safetensors", "model.onnx", "model.pt2")
_SPEC = "spec.json"
_BATCHES = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What the network takes: float32, N×channels×resolution×resolution, (pixel − mean) / std.

    Attributes:
        stored: side at which the images of the training were kept, uint8: the largest centred
            square of a picture is resized to it, and that to ``resolution``.
        mean, std: of each channel, for pixels in [0, 1].
        resize: how.
    """

    __pydantic_config__ = STRICT

    channels: int
    resolution: int
    stored: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["bilinear, antialiased"] = "bilinear, antialiased"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Logits of a written file against those of the trained network, on random images.

    Attributes:
        largest_difference: absolute.
        tolerance: what it may be.
    """

    __pydantic_config__ = STRICT

    largest_difference: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the network is from.

    Attributes:
        training: id of the training that made the weights.
        data, data_digest: the data set, and the identity of its images, labels and split.
        versions, hardware, git: of the run.
        exported_with: versions of what wrote and checked these files.
    """

    __pydantic_config__ = STRICT

    run: str
    recipe_name: str
    recipe: Recipe
    training: str
    data: str
    data_digest: str
    versions: dict[str, str]
    hardware: dict[str, str]
    git: str
    exported_with: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """``spec.json``, documented in docs/export.md and stable.

    Attributes:
        result: what ``result.json`` holds: widths, measured numbers, resolved limits.
        limits: as they were stated.
        latency: the whole measurement, on ``device``.
        checks: by file.
        files: SHA-256 of each of the other files.
    """

    __pydantic_config__ = STRICT

    format: Literal["hacscale-export"] = "hacscale-export"
    version: Literal[1] = 1
    model: ModelRef
    input: Input
    result: Result
    limits: Limits
    latency: Latency
    device: dict[str, str]
    provenance: Provenance
    onnx_opset: int
    checks: dict[str, Check]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What must be known of an export that is replaced; the rest may be of any version."""

    format: Literal["hacscale-export"]
    files: dict[str, str]


def export_run(record: RunRecord, location: Path | str, out: Path) -> ExportSpec:
    """Writes the trained network of a finished run into ``out``.

    The files are ``model.py``, ``weights.safetensors``, ``model.onnx``, ``model.pt2`` and, last,
    ``spec.json``. None is written before the logits of ``model.py`` and of ``model.onnx`` have
    been compared with those of the trained network.

    Args:
        record: of the run.
        location: of the run, a directory or a URI.
        out: a new or empty directory, or that of an earlier export, whose files are replaced.

    Returns:
        What ``spec.json`` says.

    Raises:
        UserError: ``out`` cannot be written or holds something else, the weights are missing or
            damaged, the network cannot be written in one of the formats, or logits differ.
    """
    require_tools()
    _prepare(out)
    store = RunStore(location, read_only=True)
    info = store.info()
    facts, spec = record.data, record.choose.winner.spec
    taken = Input(
        channels=facts.channels,
        resolution=spec.resolution,
        stored=info.recipe.data.stored,
        mean=facts.mean,
        # As in training, a channel without spread is centred, not scaled up.
        std=tuple(deviation if deviation >= 1 / 255 else 1.0 for deviation in facts.std),
    )
    trained = _trained(record, store)
    plain = plain_network(trained)
    source = model_source(
        plain,
        classes=facts.classes,
        channels=taken.channels,
        resolution=taken.resolution,
        stored=taken.stored,
        mean=taken.mean,
        std=taken.std,
    )
    metadata = {
        "model": canonical(spec.model).decode(),
        "input": canonical(taken).decode(),
        "widths": canonical(spec.width_of).decode(),
        "run": record.name,
        "recipe_key": record.result.recipe_key,
        "training": record.trained.row,
    }
    weights = save(all_weights(plain), {"format": "pt", **metadata})
    images = [_random_images(batch, taken) for batch in _BATCHES]
    program = exported(plain, images[-1])
    onnx = to_onnx(program, images[-1], metadata)
    checks = {
        "model.py": _check("model.py", trained, from_source(source, weights), images, SAME),
        "model.onnx": _check("model.onnx", trained, from_onnx(onnx), images, CLOSE),
    }
    files = dict(zip(_FILES, (source.encode(), weights, onnx, to_pt2(program)), strict=True))
    exported_spec = ExportSpec(
        model=spec.model,
        input=taken,
        result=record.result,
        limits=info.recipe.limits,
        latency=record.latency,
        device=record.profile.environment,
        provenance=_provenance(record, info),
        onnx_opset=OPSET,
        checks=checks,
        files={name: _sha256(data) for name, data in files.items()},
    )
    _write(out, {**files, _SPEC: pretty(exported_spec)})
    return exported_spec


def _provenance(record: RunRecord, info: RunInfo) -> Provenance:
    return Provenance(
        run=record.name,
        recipe_name=info.recipe_name,
        recipe=info.recipe,
        training=record.trained.row,
        data=record.data.name,
        data_digest=record.data.digest,
        versions=info.versions,
        hardware=info.hardware,
        git=info.git,
        exported_with={
            package: package_version(package)
            for package in ("hacscale", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    )


def _trained(record: RunRecord, store: RunStore) -> fx.GraphModule:
    """The result's network with its trained weights, in evaluation mode."""
    spec, path = record.choose.winner.spec, store.folder.path(record.trained.weights)
    check_factory(store, record.baseline.spec)
    network = load_graph(spec.model, spec.resolution).build(spec, seed=0)
    remedy = f"`hacscale resume {shlex.quote(store.location)}` trains the network again"
    data = store.folder.read(record.trained.weights)
    if data is None:
        raise UserError(f"there are no weights at {path}; {remedy}")
    try:
        network.load_state_dict(parse_weights(data))
    except UserError as error:
        raise UserError(f"{path} is {error}; {remedy}") from None
    except RuntimeError:
        raise UserError(f"{path} does not hold the weights of this network; {remedy}") from None
    return network.eval()


# Checks --------------------------------------------------------------------------------------


def _random_images(batch: int, taken: Input) -> Tensor:
    """Normal noise, which is what normalised images have for mean and spread."""
    generator = torch.Generator().manual_seed(batch)
    side = taken.resolution
    return torch.randn(batch, taken.channels, side, side, generator=generator)


@torch.no_grad()
def _check(
    name: str, network: Logits, written: Logits, batches: Sequence[Tensor], tolerance: float
) -> Check:
    """Compares logits; see `SAME` and `CLOSE` for the tolerance."""
    # Copies, because a network may work in place.
    expected = torch.cat([network(images.clone()) for images in batches])
    found = torch.cat([written(images.clone()) for images in batches])
    largest = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    check = Check(largest_difference=largest, tolerance=tolerance * scale)
    if not check.largest_difference <= check.tolerance:
        raise UserError(
            f"the logits of {name} differ by {largest:.2g} from those of the trained network, at "
            f"most {check.tolerance:.2g} may be; nothing was written"
        )
    return check


# Files ---------------------------------------------------------------------------------------


def _prepare(out: Path) -> None:
    """Makes ``out`` if it is not there.

    Raises:
        UserError: it cannot be written, or holds what is not of an export or was changed since.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in out.iterdir()}
        files = _earlier_files(out)
        changed = [
            name
            for name in _FILES
            if name in there and files.get(name) != _sha256((out / name).read_bytes())
        ]
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; give another --out") from None
    killed = not files and any(_new(out, name).exists() for name in (*_FILES, _SPEC))
    if there and not files and not killed:
        raise UserError(f"{out} holds something else ({min(there)}); give another --out")
    if changed and not killed:
        raise UserError(f"{out / changed[0]} was changed; move it away or give another --out")
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {out}: Permission denied; give another --out")


def _earlier_files(out: Path) -> dict[str, str]:
    """Digests of the files of the export that ``out`` holds, {} if there is none."""
    path = out / _SPEC
    if not path.exists():
        return {}
    try:
        return decode(_Earlier, path.read_bytes(), str(path)).files
    except UserError:
        return {}


def _write(out: Path, files: dict[str, bytes]) -> None:
    """Writes all files or none; those of an earlier export stay until the new ones are there.

    `_SPEC` tells that an export is whole: it is the first to go and, as the last of ``files``, the
    last to come.
    """
    written: list[Path] = []
    try:
        for name, data in files.items():
            write_atomic(_new(out, name), data)
            written.append(_new(out, name))
        (out / _SPEC).unlink(missing_ok=True)
        for name in files:
            _new(out, name).replace(out / name)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, UserError):
            reason = f"{error.__cause__}; free some space there or give another --out"
            raise UserError(f"cannot write {out}: {reason}") from error
        raise


def _new(out: Path, name: str) -> Path:
    """Where a file is written before it takes its place."""
    return out / f".{name}.new"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
