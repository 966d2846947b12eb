"""What `hacscale export` writes works without us, gives the same logits, and holds no pickle."""

import ast
import errno
import io
import json
import os
import pickletools
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch
from example_run import example_run
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import tiny_data, tiny_task, train
from torch import Tensor, fx, nn
from torch.nn import functional as F

from engine import export, model_source
from engine.cli import main
from engine.codec import decode
from engine.errors import Unfinished, UserError
from engine.export import CLOSE, ExportSpec, export_run
from engine.graph import load_graph
from engine.provenance import run_info
from engine.recipes import RECIPES
from engine.results import RunRecord
from engine.spec import ModelRef, NetworkSpec
from engine.storage import open_folder
from engine.store import RunStore
from engine.trained_weights import write_weights
from trainables.augment import to_batch
from trainables.data import ImageData
from trainables.pictures import resize
from trainables.tensors import TensorData

WRITTEN = ["model.onnx", "model.pt2", "model.py", "spec.json", "weights.safetensors"]
IN_ORDER = [*(name for name in WRITTEN if name != "spec.json"), "spec.json"]
OURS = {"engine", "trainables", "cluster", "searchers", "torchvision", "safetensors"}


class Centred(nn.Conv2d):
    """A layer of another package: a convolution whose kernels have mean zero."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class NormThenReLU(nn.BatchNorm2d):
    """A layer of another package that calls the forward of PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class Odd(nn.Module):
    """Tensors outside of layers, holes in lists, names that are no names, slices, in-place ops."""

    shift: Tensor
    gain: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((1, 3, 1, 1), 0.25), persistent=False)
        self.register_buffer("gain", torch.tensor(2.0))
        self.stem = Centred(3, 8, 3, padding=1)
        self.normed = NormThenReLU(8)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(4))
        self.tapped = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.named = nn.ModuleDict({"first-one": nn.PReLU(8), "norm": nn.GroupNorm(1, 8)})
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor, flag: None = None, power: int = 2) -> Tensor:
        torch._assert(x.shape[2] == x.shape[3], 'not "square"')  # pyright: ignore[reportPrivateUsage]
        x = (x - self.shift) * self.gain
        x = self.normed(self.stem(x)) * self.scale
        for i in (0, 1, 3):
            x = x + self.blocks[i](x)
        x.mul_(0.5)
        y = self.tapped[0](x)
        x = self.tapped[1](y) - y
        x = self.named["norm"](self.named["first-one"](x))
        x = F.pad(x, (1, 1, 0, 0), value=-0.5)[:, :, 1:-1, ::2]
        y, z = (1 - x).chunk(2, dim=3)
        x = torch.cat([F.max_pool2d(y, 2, ceil_mode=True), z[..., ::2, ::2]], dim=-1)
        x = (-(x**power) / 3).clamp(max=float("inf"))
        return self.head(F.adaptive_avg_pool2d(x, 1).squeeze())


def odd(classes: int) -> nn.Module:
    return Odd(classes)


def odd_widths(name: str, resolution: int, multiplier: float) -> NetworkSpec:
    """Every group's width an odd multiple of what it must be a multiple of, and all different."""
    graph = load_graph(ModelRef(name=name, classes=10), resolution)
    return graph.spec(resolution, multiplier).with_widths(
        {
            g.name: g.multiple * (2 * round(g.base * multiplier / g.multiple / 2) + 1 + 2 * (k % 3))
            for k, g in enumerate(graph.groups)
        }
    )


def network_of(spec: NetworkSpec) -> fx.GraphModule:
    """A network whose batch norms and biases have something to say."""
    network = load_graph(spec.model, spec.resolution).build(spec, seed=3).train()
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for _ in range(3):
            network(torch.randn(8, spec.model.channels, spec.resolution, spec.resolution))
    return network.eval()


def finished_run(
    directory: Path, spec: NetworkSpec, weights: dict[str, Tensor], data: ImageData | None = None
) -> RunRecord:
    """The record of a made-up run of that network, whose directory has what an export reads."""
    record = example_run()
    row = record.trained.row
    facts = replace(record.data, classes=spec.model.classes, mean=(0.5, 0.4, 0.3), std=(0.25,) * 3)
    if data is not None:
        facts = replace(facts, mean=data.mean, std=data.std, digest=data.digest)
    store = RunStore(directory)
    write_weights(store.weights, f"{row}.safetensors", weights)
    recipe = RECIPES["digits-vgg11"]()
    if data is not None:
        side = data.train.images.shape[2]
        recipe = replace(recipe, data=replace(recipe.data, resolution=side))
    store.write_info(run_info(directory.name, "a", recipe))
    return replace(
        record,
        name=directory.name,
        data=facts,
        choose=replace(record.choose, candidates=(replace(record.choose.winner, spec=spec),)),
        trained=replace(record.trained, weights=f"weights/{row}.safetensors"),
    )


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """A run of VGG-11 and where it is."""
    directory = tmp_path_factory.mktemp("runs") / "vgg11"
    spec = odd_widths("vgg11", 32, 1 / 8)
    return finished_run(directory, spec, network_of(spec).state_dict()), directory


@pytest.fixture(scope="module")
def vgg_export(vgg: tuple[RunRecord, Path]) -> tuple[ExportSpec, Path]:
    """Its export; tests only read it."""
    record, directory = vgg
    return export_run(record, directory, directory / "export"), directory / "export"


# model.py in an interpreter of its own ----------------------------------------------------------

ALONE = """
import json, sys
import torch
result = {}
for directory in sys.argv[1:]:
    sys.path.insert(0, directory)
    import model
    torch.manual_seed(1)
    images = torch.randint(0, 256, (3, len(model.MEAN), 40, 40), dtype=torch.uint8)
    network = model.load(directory + "/weights.safetensors")
    with torch.no_grad():
        logits = network(model.prepare(images))
    names = sorted(model.build().state_dict())
    result[directory] = {"logits": logits.tolist(), "names": names}
    del sys.modules["model"], sys.path[0]
result["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(result))
"""


def run_alone(*directories: Path) -> dict[str, dict[str, list[list[float]]]]:
    command = [sys.executable, "-I", "-c", ALONE, *map(str, directories)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_model_py_gives_the_logits_without_us(tmp_path: Path):
    """In the order of the original's ops, so the same up to nothing."""
    networks: dict[Path, tuple[NetworkSpec, fx.GraphModule]] = {}
    for name, resolution, multiplier in (
        ("vgg11", 32, 1 / 8),
        ("resnet18", 48, 1 / 8),
        ("mobilenet_v2", 40, 1 / 4),
        ("efficientnet_b0", 40, 1 / 4),
        ("densenet121", 32, 1 / 4),
        ("test_export:odd", 20, 1),
    ):
        spec = odd_widths(name, resolution, multiplier)
        network = network_of(spec)
        plain = model_source.plain_network(network)
        directory = tmp_path / name.replace(":", "-")
        directory.mkdir()
        source = model_source.model_source(
            plain,
            classes=10,
            channels=3,
            resolution=resolution,
            stored=40,
            mean=(0.5, 0.4, 0.3),
            std=(0.25, 0.5, 1.0),
        )
        (directory / "model.py").write_text(source)
        save_file(model_source.all_weights(plain), directory / "weights.safetensors")
        networks[directory] = (spec, network)

    found = run_alone(*networks)

    assert not OURS & set(found.pop("modules"))
    torch.manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    for directory, (spec, network) in networks.items():
        batch = to_batch(images, spec.resolution, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
        with torch.no_grad():
            expected = network(batch)
        assert expected.std(0).min() > 1e-4, "the images must differ for this to say anything"
        torch.testing.assert_close(
            torch.tensor(found[str(directory)]["logits"]), expected, rtol=1e-6, atol=1e-6
        )
        names = set(network.state_dict())
        if "odd" in directory.name:  # a norm that is written out counts no batches
            names = names - {"normed.num_batches_tracked"} | {"shift"}
        assert set(found[str(directory)]["names"]) == names


def test_the_exported_accuracy_is_the_one_of_the_training(tmp_path: Path):
    """Trained here with averaged weights, then judged with nothing but the exported files."""
    task = tiny_task(resolution=14, test=True, swa_share=0.5, epochs=4)
    data = replace(tiny_data(), std=(*tiny_data().std[:2], 0.001))  # a channel without spread
    training = train(task, tmp_path / "training", TensorData.on(data, torch.device("cpu")))
    record = finished_run(tmp_path / "run", task.spec, training.state_dict(), data)

    spec = export_run(record, tmp_path / "run", tmp_path / "out")

    assert spec.checks["model.onnx"].largest_difference > 0  # other kernels, other sums
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN
    model = runpy.run_path(str(tmp_path / "out" / "model.py"))
    network = model["load"](tmp_path / "out" / "weights.safetensors")
    batch = model["prepare"](torch.from_numpy(data.test.images))
    with torch.no_grad():
        guesses = network(batch).argmax(1).numpy()
    assert (guesses == data.test.labels).mean() == training.result().test_accuracy
    # spec.json alone says how to make the same batch, for those who do not use model.py.
    pixels = torch.from_numpy(data.test.images) / 255
    pixels = F.interpolate(pixels, (14, 14), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.input.mean, spec.input.std))
    torch.testing.assert_close((pixels - mean) / std, batch)


@pytest.mark.parametrize(("height", "width"), [(50, 38), (38, 51), (20, 20), (16, 16)])
def test_photographs_of_any_shape_are_prepared_as_in_training(
    height: int, width: int, vgg_export: tuple[ExportSpec, Path]
):
    """Pillow cut and resized what the training saw, to a precision of one level of 255."""
    spec, out = vgg_export
    text = (out / "model.py").read_text()
    stored = f"STORED = {spec.input.stored}"
    assert stored in text
    smaller = out.parent / "smaller.py"
    smaller.write_text(text.replace(stored, "STORED = 20"))
    model = runpy.run_path(str(smaller))
    noise = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    images = (255 * smooth).to(torch.uint8)
    kept = torch.from_numpy(resize(images.numpy(), 20))
    expected = to_batch(kept, spec.input.resolution, spec.input.mean, spec.input.std)
    prepared = model["prepare"](images)
    tolerance = 1.01 / 255 / min(spec.input.std)
    torch.testing.assert_close(prepared, expected, rtol=0, atol=tolerance)


def test_runs_of_layers_become_one_call(vgg_export: tuple[ExportSpec, Path]):
    _, out = vgg_export
    source = (out / "model.py").read_text()
    forward = source.partition("def forward")[2].partition("\n\n\n")[0].splitlines()
    assert [line.strip() for line in forward[2:]] == [
        "x = self.features(x)",
        "x = self.pool(x)",
        "x = torch.flatten(x, 1)",
        "x = self.classifier(x)",
        "return x",
    ]


def test_model_py_is_plain_code(vgg_export: tuple[ExportSpec, Path]):
    _, out = vgg_export
    tree = ast.parse((out / "model.py").read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
        elif isinstance(node, ast.Name):
            assert node.id not in ("eval", "exec", "compile", "__import__", "open")
    assert imported == {"json", "pathlib", "torch", "torch.nn"}


# The other files ------------------------------------------------------------------------------


def test_onnx_agrees_for_any_batch(vgg_export: tuple[ExportSpec, Path]):
    spec, out = vgg_export
    weights = load_file(out / "weights.safetensors")
    network = load_graph(spec.model, 32).build(odd_widths("vgg11", 32, 1 / 8), 0).eval()
    network.load_state_dict(weights)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    (given_input,) = session.get_inputs()
    assert (given_input.name, given_input.shape) == ("images", ["batch", 3, 32, 32])
    for batch in (1, 2, 9):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = network(images)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        allowed = CLOSE * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=allowed)
        archived = torch.export.load(out / "model.pt2").module()(images)
        torch.testing.assert_close(archived, expected, rtol=1e-6, atol=1e-6)
    check = spec.checks["model.onnx"]
    assert 0 <= check.largest_difference <= check.tolerance
    proto = onnx.load(out / "model.onnx")
    assert [opset.version for opset in proto.opset_import] == [spec.onnx_opset]


def test_spec_and_headers_say_what_a_user_needs(
    vgg: tuple[RunRecord, Path], vgg_export: tuple[ExportSpec, Path]
):
    record, directory = vgg
    spec, out = vgg_export
    assert decode(ExportSpec, (out / "spec.json").read_bytes(), "spec.json") == spec
    assert (spec.model.name, spec.model.classes) == ("vgg11", 10)
    assert spec.result == record.result and spec.latency == record.latency
    assert (spec.input.mean, spec.input.std) == (record.data.mean, record.data.std)
    assert spec.provenance.recipe == RunStore(directory).info().recipe
    assert spec.provenance.exported_with["onnxruntime"] == onnxruntime.__version__
    with safe_open(out / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["widths"]) == record.choose.winner.spec.width_of
    assert json.loads(metadata["input"])["mean"] == list(record.data.mean)
    properties = {p.key: p.value for p in onnx.load(out / "model.onnx").metadata_props}
    assert metadata == {"format": "pt", **properties}


def entries(path: Path) -> Iterable[tuple[str, bytes]]:
    """A file, or what is packed into it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from ((f"{path.name}/{name}", archive.read(name)) for name in archive.namelist())
    else:
        yield path.name, path.read_bytes()


def test_there_is_no_pickle_and_no_path_of_this_machine(vgg_export: tuple[ExportSpec, Path]):
    _, out = vgg_export
    found = dict(entry for path in out.iterdir() for entry in entries(path))
    assert "model.pt2/archive/models/model.json" in found
    for name, data in found.items():
        assert not zipfile.is_zipfile(io.BytesIO(data)), f"{name} is an archive of its own"
        assert not name.endswith(".pkl")
        assert str(Path(torch.__file__).parents[1]).encode() not in data
        if "/weights/weight_" not in name:  # raw numbers; the config says that they are
            with pytest.raises((ValueError, UnicodeDecodeError)):
                for _ in pickletools.genops(data):
                    pass
    configs = [json.loads(data) for name, data in found.items() if name.endswith("_config.json")]
    assert configs[0]["config"]
    for config in configs:
        assert not any(entry["use_pickle"] for entry in config["config"].values())


# Errors ---------------------------------------------------------------------------------------


def refused(record: RunRecord, directory: Path, out: Path, message: str) -> None:
    before = sorted(out.iterdir()) if out.is_dir() else None
    with pytest.raises(UserError, match=message) as error:
        export_run(record, directory, out)
    assert "\n" not in str(error.value)
    if before is not None:
        assert sorted(out.iterdir()) == before


def test_weights_must_be_whole_and_of_this_network(tmp_path: Path, vgg: tuple[RunRecord, Path]):
    record, source = vgg
    (tmp_path / "weights").mkdir()
    (tmp_path / "run.json").write_bytes((source / "run.json").read_bytes())
    path = tmp_path / record.trained.weights
    out = tmp_path / "out"
    out.mkdir()
    refused(record, tmp_path, out, "there are no weights at .*hacscale resume")
    whole = (source / record.trained.weights).read_bytes()
    for damaged in (b"", whole[:-8], whole[:40], b"\xff" * 100, b"\x80\x04N."):
        path.write_bytes(damaged)
        refused(record, tmp_path, out, "is damaged .*hacscale resume")
    state = load_file(source / record.trained.weights)
    save_file(state, path)
    refused(record, tmp_path, out, "is damaged .*not the one that was written.*hacscale resume")
    folder = open_folder(tmp_path)
    write_weights(folder, record.trained.weights, {**state, "more": torch.zeros(1)})
    refused(record, tmp_path, out, "does not hold the weights of this network")
    state["classifier.weight"] = torch.zeros(10, 3)
    write_weights(folder, record.trained.weights, state)
    refused(record, tmp_path, out, "does not hold the weights of this network")


def test_only_an_export_is_replaced(
    tmp_path: Path, vgg: tuple[RunRecord, Path], vgg_export: tuple[ExportSpec, Path]
):
    record, directory = vgg
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refused(record, directory, out, r"holds something else \(notes.txt\); give another --out")
    for name in WRITTEN:
        (out / name).write_bytes((vgg_export[1] / name).read_bytes())
    model = (out / "model.py").read_text()
    (out / "model.py").write_text("# mine")
    refused(record, directory, out, "model.py was changed; move it away")
    (out / "model.py").unlink()
    (out / "spec.json").write_text('{"format": "another"}')
    refused(record, directory, out, "holds something else")
    (out / "spec.json").write_bytes((vgg_export[1] / "spec.json").read_bytes())
    export_run(record, directory, out)
    assert (out / "model.py").read_text() == model
    assert (out / "notes.txt").read_text() == "mine"


def test_a_directory_that_cannot_be_written(tmp_path: Path, vgg: tuple[RunRecord, Path]):
    record, directory = vgg
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(record, directory, out, f"cannot write {out}: .*give another --out")


def _fill_after(files: int) -> Callable[[Path, bytes], None]:
    """Stands for `write_atomic` on a disk that has room for so many files."""
    left = iter(range(files))

    def fill(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            raise UserError("no space left") from OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    return fill


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "write_atomic", _fill_after(2))
    with pytest.raises(UserError, match=r"cannot write .*No space left on device; .* --out"):
        export._write(tmp_path, dict.fromkeys("abcd", b""))  # pyright: ignore[reportPrivateUsage]
    assert list(tmp_path.iterdir()) == []


def test_an_export_stays_until_the_next_one_is_there(
    tmp_path: Path, vgg_export: tuple[ExportSpec, Path], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    shutil.copytree(vgg_export[1], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = dict.fromkeys(IN_ORDER, b"new")
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_atomic", _fill_after(3))
        with pytest.raises(UserError, match="No space left on device"):
            export._write(out, again)  # pyright: ignore[reportPrivateUsage]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("renamed", range(5))
def test_an_export_that_was_killed_is_not_whole_and_gives_way(
    renamed: int, tmp_path: Path, vgg: tuple[RunRecord, Path], vgg_export: tuple[ExportSpec, Path],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    out, places = tmp_path / "out", iter(range(renamed))
    shutil.copytree(vgg_export[1], out)
    replace_file = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name in WRITTEN and next(places, None) is None:
            os._exit(9)
        return replace_file(path, target)

    if (child := os.fork()) == 0:
        Path.replace = killed  # type: ignore[method-assign]
        export._write(out, dict.fromkeys(IN_ORDER, b"new"))  # pyright: ignore[reportPrivateUsage]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (out / "spec.json").exists()
    export._prepare(out)  # pyright: ignore[reportPrivateUsage]
    files = {name: (vgg_export[1] / name).read_bytes() for name in IN_ORDER}
    export._write(out, files)  # pyright: ignore[reportPrivateUsage]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


@pytest.mark.parametrize("tool", ["onnxruntime", "onnxscript", "onnx"])
def test_a_missing_package_is_named(
    tool: str, tmp_path: Path, vgg: tuple[RunRecord, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, tool, None)
    with pytest.raises(UserError, match=rf"needs {tool}, .* `pip install {tool}`"):
        export_run(*vgg, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_nothing_is_written_if_logits_differ(
    error: float, tmp_path: Path, vgg: tuple[RunRecord, Path], monkeypatch: pytest.MonkeyPatch
):
    network = network_of(vgg[0].choose.winner.spec)
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"")
    monkeypatch.setattr(export, "from_onnx", lambda _: lambda images: network(images) + error)
    (tmp_path / "out").mkdir()
    refused(*vgg, tmp_path / "out", "logits of model.onnx differ by .* nothing was written")


def test_a_layer_that_cannot_be_taken_apart(tmp_path: Path):
    class Moody(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if input.mean() > 0 else input

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    network = nn.Sequential(Moody(3, 3, 1))
    with pytest.raises(UserError, match="cannot be taken apart"):
        model_source.plain_network(fx.GraphModule(network, Tracer().trace(network)))


def test_the_command(
    vgg: tuple[RunRecord, Path],
    vgg_export: tuple[ExportSpec, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    record, directory = vgg
    calls: list[tuple[RunRecord, Path, Path]] = []
    monkeypatch.setitem(sys.modules, "cluster.driver", SimpleNamespace(read_run=lambda _: record))
    monkeypatch.setattr(export, "export_run", lambda *args: calls.append(args) or vgg_export[0])
    main(["export", str(directory)])
    main(["export", directory.name, "--runs-dir", str(directory.parent), "--out", "elsewhere"])
    assert calls == [
        (record, str(directory), directory / "export"),
        (record, str(directory), Path("elsewhere")),
    ]
    assert "model.onnx: logits off by" in capsys.readouterr().out

    def unfinished(directory: Path) -> RunRecord:
        raise Unfinished("the train stage is not complete", stage="train")

    monkeypatch.setitem(sys.modules, "cluster.driver", SimpleNamespace(read_run=unfinished))
    for run, message in ((str(directory), "train stage"), ("nothing", "there is no run 'nothing'")):
        with pytest.raises(SystemExit, match="2"):
            main(["export", run])
        assert message in capsys.readouterr().err


# How things are written -----------------------------------------------------------------------

LAYERS = [
    nn.Conv2d(3, 8, 3),
    nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), groups=4),
    nn.Conv2d(4, 8, 3, padding="same", padding_mode="reflect", dilation=2, bias=False),
    nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    nn.Linear(4, 5, bias=False),
    nn.BatchNorm2d(7, eps=1e-3, momentum=None, affine=False),
    nn.BatchNorm1d(7, track_running_stats=False),
    nn.InstanceNorm2d(5, affine=True),
    nn.GroupNorm(2, 6, affine=False),
    nn.LayerNorm([6], bias=False),
    nn.LayerNorm([6, 6]),
    nn.PReLU(4),
    nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
    nn.AvgPool2d((2, 3), count_include_pad=False, divisor_override=5),
    nn.LPPool2d(2, 3),
    nn.AdaptiveAvgPool2d((1, 2)),
    nn.AdaptiveMaxPool2d((None, 2)),
    nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
    nn.Upsample(size=(4, 6)),
    nn.ConstantPad2d((0, 1, 2, 3), -1.5),
    nn.ZeroPad2d(2),
    nn.ReflectionPad2d((1, 2, 1, 2)),
    nn.CircularPad2d(1),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.ELU(0.5),
    nn.GELU(approximate="tanh"),
    nn.Hardtanh(-2, float("inf")),
    nn.Softplus(2, 10),
    nn.Threshold(0.1, -3),
    nn.RReLU(0.1, 0.2),
    nn.Softmax(dim=1),
    nn.LocalResponseNorm(3, k=2.0),
    nn.GLU(1),
    nn.Flatten(2),
    nn.Dropout(0.3),
    nn.Identity(),
    nn.PixelShuffle(2),
    nn.ChannelShuffle(3),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_is_made_again(layer: nn.Module):
    written = model_source.layer_call("here", layer)
    made = eval(written, {"nn": nn})
    assert type(made) is type(layer)
    for name, value in vars(layer).items():
        one = getattr(made, name)
        if isinstance(value, tuple) and isinstance(one, int):
            assert value == (one,) * len(value), (written, name)
        elif isinstance(value, bool | int | float | str | tuple | None):
            assert one == value, (written, name)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (made, layer)]
    assert shapes[0] == shapes[1]


def test_a_layer_of_another_package_is_refused():
    with pytest.raises(UserError, match=r"layer a.b: test_export.Centred is no layer of torch.nn"):
        model_source.layer_call("a.b", Centred(1, 1, 1))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("a'\"\\\n×"),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.just(()),
    max_leaves=8,
)


@given(values)
def test_a_literal_is_the_value(value: object):
    made = eval(model_source.literal(value, {}))
    assert made == value and repr(made) == repr(value)
