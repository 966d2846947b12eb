"""``hacscale profile``, and the profile as a stage of a run; on a device that is a formula."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.measuring import Measuring, import_result
from engine import measure, synthetic
from engine import profiling as profiling_module
from engine.bench import REFERENCE, Reading, Visit, write_visits
from engine.cli import main
from engine.commands import profile
from engine.errors import StorageError, UserError
from engine.exchange import load_plan
from engine.graph import load_graph
from engine.hardware.models import load_latency
from engine.measure import time_networks
from engine.profiling import Profiling, read_profile
from engine.provenance import run_info
from engine.recipe import Device, Profile
from engine.recipes import RECIPES
from engine.spec import ModelRef
from engine.store import RunStore

FAST = ["--input", "3x32x32", "--classes", "10", "--set", "device.runtime=synthetic",
        "width=0.0625", "profile.networks=8", "profile.held_out=2"]  # fmt: skip


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("hacscale: ")
    return message


def profiling(**changes: object) -> Profiling:
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    fields = {"networks": 8, "held_out": 2} | changes
    settings = Profile(**fields)  # type: ignore[arg-type]
    return Profiling(graph=graph, base=graph.spec(32, 0.0625), resolutions=(40,), settings=settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    main(["profile", "vgg11", *FAST, "--out", str(path)])
    return path


def test_a_profile_file_holds_the_key_the_model_and_what_it_was_made_from(written: Path):
    tree = json.loads(written.read_text())
    assert (tree["format"], tree["version"]) == ("hacscale-profile", 1)
    assert tree["result"]["key"]["device"] == tree["result"]["key"]["runtime"] == "synthetic"
    assert len(tree["timings"]) == 10
    assert tree["result"]["granularity"]["conv 3x3"] == 16  # the formula's lanes
    assert tree["result"]["noise_floor"] == 0
    result = read_profile(written, profiling())
    model = load_latency(result.model)
    graph = profiling().graph
    spec = graph.spec(32, 0.125)
    device = Device(runtime="synthetic")
    [true] = time_networks(graph, [spec], spec, device, calls=3, rounds=2, per_layer=False).timings
    assert model.predict(graph.cost(spec)) == pytest.approx(true.latency.ms, rel=0.1)


def test_what_the_command_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main(["profile", "vgg11", *FAST])
    shown = capsys.readouterr().out
    assert "profile.file=profile.json" in shown
    assert (tmp_path / "profile.json").is_file()
    for word in ("MAPE", "RMSPE", "within ±10 %", "Spearman", "noise floor", "conv 3x3", "clock"):
        assert word in shown


def test_a_profile_serves_only_what_it_was_made_for(written: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"was fitted with .* channels"):
        read_profile(written, profiling(max_width=8.0))
    with pytest.raises(UserError, match=r"at 32 to .* px, not at 96 px"):
        read_profile(written, replace(profiling(), resolutions=(96,)))
    with pytest.raises(UserError, match=r"cannot read the profile .*none\.json"):
        read_profile(tmp_path / "none.json", profiling())
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(written.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"damaged\.json: not valid JSON"):
        read_profile(damaged, profiling())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg11", "--input", "3x32x31"], "--input must be CxHxW with equal H and W"),
        (["vgg11", "--classes", "0"], "--classes must be at least 1"),
        (["vgg12"], "vgg12"),
        (["vgg11", "--import", "none.csv"], "cannot read none.csv"),
        (["vgg12", "--import", __file__], "nor is there such a run in runs"),
        (
            ["vgg11", *FAST, "--out", "/nowhere/p.json"],
            "cannot write /nowhere/p.json: No such file",
        ),
        (
            ["vgg11", *FAST, "--out", "/dev/null"],
            "cannot write /dev/null: it is there and no file; give",
        ),
        (
            ["vgg11", *FAST, "--out", "."],
            "cannot write .: it is there and no file; give another file by --out",
        ),
        (["vgg11", *FAST[:4], "--plan", ""], "no file; give another file by --plan"),
        (["vgg11", *FAST[:4], "--set", "device.threads=999"], "device.threads is 999, but this"),
        (["vgg11", *FAST[:4], "--set", "device.place=offline"], "give --plan"),
        (["vgg11", *FAST, "--address", "127.0.0.1:1"], "set device.place=node:RESOURCE"),
        (["vgg11", *FAST[:4], "--set", "device.runtime=gpu"], "device.runtime"),
        (["vgg11", "--plan", "a", "--import", "b"], "not allowed with"),
    ],
)
def test_a_users_error_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert message in failed(capsys, "profile", *arguments)


def test_a_plan_is_written_with_its_script_and_its_result_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fast = [*FAST[:4], "--set", *FAST[6:]]
    main(["profile", "vgg11", *fast, "--plan", str(tmp_path / "plan.json")])
    assert "python measure.py plan.json result.csv" in capsys.readouterr().out
    assert (tmp_path / "measure.py").exists()
    table = measured_by_formula(tmp_path / "plan.json", tmp_path / "result.csv")
    main(["profile", "vgg11", *fast, "--import", str(table), "--out", str(tmp_path / "p.json")])
    shown = capsys.readouterr().out
    assert "Board 3000" in shown and "62 s" in shown
    tree = json.loads((tmp_path / "p.json").read_text())
    assert tree["result"]["key"]["device"] == "Board 3000"
    assert tree["result"]["quality"]["mape"] < 0.1
    message = failed(capsys, "profile", "vgg11", *fast, "profile.seed=1", "--import", str(table))
    assert "is of the plan" in message


def measured_by_formula(plan_path: Path, table: Path) -> Path:
    """Does what measure.py does, on the synthetic device."""
    plan = load_plan(plan_path.read_bytes(), "plan.json")
    request = plan.request
    graph = load_graph(request.reference.model, request.reference.resolution)
    timings = time_networks(
        graph, [*request.specs, request.reference], request.reference,
        Device(runtime="synthetic"), calls=3, rounds=2, per_layer=True,
    ).timings  # fmt: skip

    def visit(number: int, layers: bool) -> Visit:
        timing = timings[number]
        ms = (timing.latency.ms,) * request.calls
        assert timing.layer_ms is not None
        layer_ms = timing.layer_ms if layers and request.per_layer else {}
        reading = Reading(counted_ms=ms, cpu_ms=ms, wall_ms=ms, layer_ms=layer_ms)
        return Visit(network=number, reading=reading)

    visits = [visit(REFERENCE, False)]
    for _ in range(request.rounds):
        for number in range(len(request.specs)):
            visits += [visit(number, True), visit(REFERENCE, False)]
    with table.open("w") as file:
        file.write(f"# plan: {plan.digest}\n# seconds: 61.5\n# device: Board 3000\n")
        write_visits(visits, file)
    return table


def test_a_run_waits_for_a_device_elsewhere_and_goes_on_with_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = RECIPES["digits-vgg11"]()
    recipe = replace(recipe, device=Device(place="offline"))
    store = RunStore(tmp_path / "runs" / "elsewhere")
    store.write_info(run_info("elsewhere", "digits-vgg11", recipe))
    runs = str(tmp_path / "runs")

    def no_ray() -> None:
        raise AssertionError("a device elsewhere needs no Ray")

    measuring = Measuring(
        device=recipe.device, settings=recipe.profile, store=store, start_ray=no_ray
    )
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base, other = graph.spec(32, 0.0625), graph.spec(32, 0.125)
    with pytest.raises(UserError, match=r"2 networks wait for the device: copy") as error:
        measuring("allocate", [base, other], base, per_layer=False)
    assert "\n" not in str(error.value)
    assert f"hacscale resume {store.location}" in str(error.value)
    folder = tmp_path / "runs" / "elsewhere" / "measure"
    table = measured_by_formula(folder / "plan.json", tmp_path / "result.csv")

    main(["profile", "elsewhere", "--runs-dir", runs, "--import", str(table)])
    assert "2 networks measured on Board 3000 are in the run" in capsys.readouterr().out
    measured = measuring("allocate", [base, other], base, per_layer=False)
    assert [t.spec for t in measured.timings] == [base, other]
    with pytest.raises(UserError, match="1 networks wait"):
        measuring("measure", [other], base, per_layer=False)
    # Another session for the same purpose is another measurement there.
    with pytest.raises(UserError, match="2 networks wait"):
        measuring("allocate, session 2", [base, other], base, per_layer=False)
    message = failed(capsys, "profile", "elsewhere", "--runs-dir", runs, "--import", str(table))
    assert "is of the plan" in message


def test_a_table_of_layers_that_others_timed_is_calibrated_by_the_networks_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers by the formula of the device, twice as slow; ops without arithmetic are not there."""
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    lines = ["op,cin,cout,h,w,kernel,stride,groups,ms"]
    layers = [cost for cost in graph.cost(graph.spec(32, 0.0625)).layers if cost.macs]
    for cost in layers:
        size = f"{cost.hin},{cost.win},{cost.kernel[0]}"
        for cin in (3,) if cost.cin == 3 else (2, 8, 16, 32, 64, 128):
            for cout in (10,) if cost.kind == "linear" else (8, *range(16, 129, 16)):
                weights = cost.kernel[0] ** 2 * cin * cout
                sized = replace(cost, cin=cin, cout=cout, macs=weights * cost.uses)
                ms = 2 * synthetic.layer_ms(sized, 1)
                lines.append(f"{cost.kind},{cin},{cout},{size},1,1,{ms}")
    table, out = tmp_path / "layers.csv", tmp_path / "p.json"
    table.write_text("\n".join(lines))
    words = [*FAST, "profile.model=lut", "alpha.low=0.01", "alpha.high=0.02"]
    main(["profile", "vgg11", *words, f"profile.table={table}", "--out", str(out)])
    result = json.loads(out.read_text())["result"]
    model = json.loads(result["model"])
    assert (model["kind"], model["listed"]) == ("lut", True)
    assert result["quality"]["mape"] < 0.1

    plain = [*words, f"profile.table={table}", "profile.calibrate=false", "--out", str(out)]
    main(["profile", "vgg11", *plain])
    model = json.loads(json.loads(out.read_text())["result"]["model"])
    assert (model["scale"], model["offset_ms"]) == (1.0, 0.0)

    def unasked(*_: object, **__: object) -> None:
        raise AssertionError("what the table lacks is told before anything is measured")

    monkeypatch.setattr(measure, "measure_here", unasked)
    # Both corners of the box are there, all groups narrow and all wide, but not one beside another.
    uniform = [
        line
        for line in lines[1:]
        if not line.startswith("conv") or line.startswith("conv,3,")
        or 0.5 <= int(line.split(",")[2]) / int(line.split(",")[1]) <= 4
    ]  # fmt: skip
    table.write_text("\n".join([lines[0], *uniform]))
    message = failed(capsys, "profile", "vgg11", *words, f"profile.table={table}")
    assert "does not reach" in message

    table.write_text("\n".join(line for line in lines if not line.startswith("linear")))
    message = failed(capsys, "profile", "vgg11", *words, f"profile.table={table}")
    assert "knows no op like" in message and "(linear)" in message
    message = failed(capsys, "profile", "vgg11", *FAST, f"profile.table={table}")
    assert "table needs model lut" in message


def test_a_table_for_a_model_is_not_for_a_run_of_that_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    RunStore(tmp_path / "runs" / "vgg11").write_info(
        run_info("vgg11", "digits-vgg11", RECIPES["digits-vgg11"]())
    )
    fast = [*FAST[:4], "--runs-dir", str(tmp_path / "runs"), "--set", *FAST[6:]]
    main(["profile", "vgg11", *fast, "--plan", str(tmp_path / "plan.json")])
    table = measured_by_formula(tmp_path / "plan.json", tmp_path / "result.csv")
    main(["profile", "vgg11", *fast, "--import", str(table), "--out", str(tmp_path / "p.json")])
    assert "Board 3000" in capsys.readouterr().out


def test_a_store_that_cannot_be_read_is_not_taken_for_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def no_store(arguments: object) -> None:
        raise StorageError("the credentials have expired")

    monkeypatch.setattr(profile, "run_directory", no_store)
    message = failed(capsys, "profile", "s3://bucket/runs/first", "--import", __file__)
    assert message == "hacscale: the credentials have expired\n"


def test_figures_are_shown_although_they_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, data: bytes) -> None:
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(profiling_module, "write_atomic", full)
    with pytest.raises(SystemExit):
        main(["profile", "vgg11", *FAST, "--out", str(tmp_path / "p.json")])
    shown = capsys.readouterr()
    assert "MAPE" in shown.out and "No space left" in shown.err


def test_a_run_that_waits_for_nothing_takes_no_table(tmp_path: Path):
    with pytest.raises(UserError, match="waits for no measurement"):
        import_result(RunStore(tmp_path), b"", "result.csv")
