import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.bench import REFERENCE, Reading, Visit, write_visits
from engine.errors import UserError
from engine.exchange import Request, make_plan, read_result, script_source, write_plan
from engine.graph import NetworkGraph, load_graph
from engine.measure import summarise
from engine.recipe import Device
from engine.scaling import deepened
from engine.spec import ModelRef


@pytest.fixture(scope="module")
def graph() -> NetworkGraph:
    return load_graph(ModelRef(name="resnet18", classes=10), 32)


def request_of(graph: NetworkGraph, *widths: float, **changes: object) -> Request:
    fields: dict[str, object] = {
        "purpose": "profile",
        "specs": tuple(graph.spec(32, width) for width in widths),
        "reference": graph.spec(32, 0.05),
        "device": Device(place="offline", batch=2),
        "calls": 3,
        "rounds": 2,
        "per_layer": True,
    }
    return Request(**(fields | changes))  # pyright: ignore[reportArgumentType]


def visits_of(*ms: float) -> list[Visit]:
    """The reference takes 1 ms; each network two ops."""
    visits = [visit(REFERENCE, 1.0)]
    for _ in range(2):
        for network, whole in enumerate(ms):
            visits += [visit(network, whole, a=whole / 4, b=whole / 2), visit(REFERENCE, 1.0)]
    return visits


def visit(network: int, ms: float, **layers: float) -> Visit:
    reading = Reading(
        counted_ms=(ms, 2 * ms), cpu_ms=(ms, 2 * ms), wall_ms=(3 * ms, 4 * ms), layer_ms=layers
    )
    return Visit(network=network, reading=reading)


def table_of(path: Path, request: Request, visits: list[Visit]) -> bytes:
    with path.open("w") as file:
        file.write(
            f"# plan: {request.digest}\n# seconds: 12.5\n# device: Board 3000\n# torch: 9.9\n"
        )
        write_visits(visits, file)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["resnet18", "example_networks:TakenApart"])
def test_the_script_measures_a_plan_with_pytorch_alone(name: str, tmp_path: Path):
    graph = load_graph(ModelRef(name=name, classes=10), 32)
    request = request_of(graph, 0.05, 0.1)
    script = write_plan(tmp_path / "plan.json", make_plan(graph, request))
    # -I: neither this program's packages nor the working directory can be imported.
    patched = script.read_text().replace("ROUND_SECONDS = 2.0", "ROUND_SECONDS = 0.0")
    assert patched != script.read_text()
    script.write_text(patched)
    subprocess.run(
        [sys.executable, "-I", script.name, "plan.json", "result.csv"],
        cwd=tmp_path, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    measured = read_result((tmp_path / "result.csv").read_bytes(), request, "result.csv")
    assert [t.spec for t in measured.timings] == list(request.specs)
    assert (measured.key.device, measured.key.batch) == (measured.environment["device"], 2)
    for spec, timing in zip(request.specs, measured.timings, strict=True):
        assert timing.layer_ms is not None
        assert list(timing.layer_ms) == [layer.name for layer in graph.cost(spec).layers]
        assert timing.latency.ms > 0


def test_ops_that_are_taken_apart_are_told_as_the_layers_that_they_are_of() -> None:
    graph = load_graph(ModelRef(name="example_networks:TakenApart", classes=10), 32)
    plan = make_plan(graph, request_of(graph, 0.5))
    ops = plan.reference.ops
    assert ops is not None and ops.count("norm") == 3
    assert list(dict.fromkeys(ops)) == [op.name for op in graph.traced.ops]
    assert make_plan(*resnet()).reference.ops is None


def test_layers_are_not_tried_out_while_they_are_written() -> None:
    """A norm of a user's class without weights: what is called while tracing is recorded."""
    graph = load_graph(ModelRef(name="example_networks:NormWithoutWeights", classes=10), 32)
    for multiplier in (0.5, 1.0):
        plan = make_plan(graph, request_of(graph, multiplier))
        names: dict[str, Any] = {}
        exec(plan.networks[0].source, names)
        spec = graph.spec(32, multiplier)
        built, network = names["build"]().eval(), graph.build(spec, 0).eval()
        built.load_state_dict(network.state_dict(), strict=False)  # no count of batches
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(built(images), network(images))


def resnet() -> tuple[NetworkGraph, Request]:
    graph = load_graph(ModelRef(name="resnet18", classes=10), 32)
    return graph, request_of(graph)


def test_a_directory_is_no_place_for_a_result_and_is_told_before_anything_is_measured(
    graph: NetworkGraph, tmp_path: Path
):
    script = write_plan(tmp_path / "plan.json", make_plan(graph, request_of(graph)))
    (tmp_path / "there").mkdir()
    run = subprocess.run(
        [sys.executable, "-I", script.name, "plan.json", "there"],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == "there: it is a directory; give the result a file of its own\n"
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "measure.py", "there"}


def test_a_script_that_is_not_ours_stays(graph: NetworkGraph, tmp_path: Path):
    plan = make_plan(graph, request_of(graph, 0.05, 0.1))
    (tmp_path / "measure.py").write_text("# mine\n")
    with pytest.raises(UserError, match=r"measure\.py is there already and not ours"):
        write_plan(tmp_path / "plan.json", plan)
    assert {path.name for path in tmp_path.iterdir()} == {"measure.py"}
    with pytest.raises(UserError, match=r"measure\.py is the name of the script"):
        write_plan(tmp_path / "other" / "measure.py", plan)
    first, _ = script_source().split(b"\n", 1)
    (tmp_path / "measure.py").write_bytes(first + b"\nof an earlier version")
    assert write_plan(tmp_path / "plan.json", plan).read_bytes() == script_source()


def test_the_script_says_in_one_line_and_at_once_what_it_cannot_read_or_write(
    graph: NetworkGraph, tmp_path: Path
):
    script = write_plan(tmp_path / "plan.json", make_plan(graph, request_of(graph, 0.05, 0.1)))
    (tmp_path / "no.json").write_text("{")
    for plan, result, message in (
        ("none.json", "result.csv", "none.json: No such file or directory"),
        ("no.json", "result.csv", "no.json is no plan ("),
        ("plan.json", "none/result.csv", "none/result.csv.part: No such file or directory"),
    ):
        told = subprocess.run(
            [sys.executable, "-I", script.name, plan, result],
            cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert told.returncode == 1 and told.stderr.startswith(message), told.stderr
        assert told.stderr.count("\n") == 1
    assert not (tmp_path / "result.csv").exists()


def test_the_script_imports_pytorch_alone():
    lines = script_source().decode().splitlines()
    imported = {
        line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
    }
    assert imported - set(sys.stdlib_module_names) == {"torch"}


def test_a_table_says_what_was_measured(graph: NetworkGraph, tmp_path: Path):
    request = request_of(graph, 0.1, 0.2)
    visits = visits_of(2.0, 8.0)
    measured = read_result(table_of(tmp_path / "r.csv", request, visits), request, "r.csv")
    assert list(measured.timings) == summarise(request.specs, visits)
    assert [t.latency.ms for t in measured.timings] == [2.0, 8.0]
    assert measured.timings[1].layer_ms == {"a": 2.0, "b": 4.0}
    assert measured.timings[1].latency.wall_ms_min == 24.0
    assert measured.key.device == "Board 3000"
    assert measured.environment["torch"] == "9.9"
    assert "not measured" in measured.environment["power"]
    assert measured.seconds == 12.5 and "seconds" not in measured.environment


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# seconds: 12.5", "# seconds: long", r"the head of r\.csv has the time 'long'"),
        ("visit,", "v" * 200_000 + ",", r"r\.csv is damaged \(field larger than"),
        ("# plan: ", "# plan: x", r"r\.csv is of the plan x\w+, not of \w+; measure the plan"),
        ("counted_ms", "ms", r"no column 'counted_ms' of visit, network, op"),
        ("a,0.5", "a,-0.5", r"line 10 of r\.csv has the time '-0.5'; a time is .* not negative"),
        ("a,0.5", "a,nan", r"line 10 of r\.csv has the time 'nan'"),
        ("a,0.5", "a,", r"line 10 of r\.csv has the time ''"),
        ("1,0,a", "1,one,a", r"has 'one' where a whole number belongs"),
        ("1,0,a", "1,7,a", r"is of network 7, but the plan has 2"),
        ("1,0,a", "1,1,a", r"gives visit 1 a second network"),
        ("1,0,a", "1,0,c", r"not the times of the same ops"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(
    graph: NetworkGraph, tmp_path: Path, old: str, new: str, message: str
):
    request = request_of(graph, 0.1, 0.2)
    table = table_of(tmp_path / "r.csv", request, visits_of(2.0, 8.0)).decode()
    assert old in table
    with pytest.raises(UserError, match=message) as error:
        read_result(table.replace(old, new, 1).encode(), request, "r.csv")
    assert "\n" not in str(error.value)


def test_a_table_that_is_cut_off_or_empty_is_refused(graph: NetworkGraph, tmp_path: Path):
    request = request_of(graph, 0.1, 0.2)
    table = table_of(tmp_path / "r.csv", request, visits_of(2.0, 8.0))
    with pytest.raises(UserError, match="cut off"):
        read_result(table[: table.index(b"\n7,")], request, "r.csv")
    with pytest.raises(UserError, match="holds no rows"):
        read_result(table[: table.index(b"\n0,")], request, "r.csv")
    with pytest.raises(UserError, match="is no text"):
        read_result(b"\xff\xfe\x00", request, "r.csv")


def test_another_purpose_network_or_device_is_another_plan(graph: NetworkGraph):
    first = request_of(graph, 0.1)
    others = [
        request_of(graph, 0.1, purpose="measure"),
        request_of(graph, 0.2),
        request_of(graph, 0.1, device=Device(place="offline", batch=3)),
        request_of(graph, 0.1, rounds=3),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5
    assert request_of(graph, 0.1, device=Device(batch=2)).digest == first.digest


def test_a_deeper_network_is_planned_as_itself(graph: NetworkGraph):
    deeper = deepened(graph, graph.spec(32, 0.05), depth=2.0, width=1.0, resolution=32)
    plan = make_plan(graph, replace(request_of(graph), specs=(deeper,)))
    names: dict[str, Any] = {}
    exec(plan.networks[0].source, names)
    built = sum(parameter.numel() for parameter in names["build"]().parameters())
    assert built == load_graph(deeper.model, 32).cost(deeper).params


def test_what_needs_more_than_pytorch_cannot_be_planned(graph: NetworkGraph):
    request = request_of(graph, 0.1, device=Device(runtime="onnxruntime"))
    with pytest.raises(UserError, match=r"with device\.runtime eager, not 'onnxruntime'"):
        make_plan(graph, request)
