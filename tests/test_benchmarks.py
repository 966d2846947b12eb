"""Every benchmark of the device runs from end to end, on the synthetic device and in small."""

import json
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from xml.etree import ElementTree

import pytest
from example_comparison import whole_comparison
from example_run import example_run

from engine.comparison import Comparison
from engine.provenance import revision
from engine.recipe import Device, Profile
from engine.results import FidelityLadder, Rung, RunRecord

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SYNTHETIC = ["--runtime", "synthetic", "--networks", "vgg11"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--out", str(tmp_path)])
        benchmark = import_module(name)
        benchmark.main()
        return benchmark

    return run


def results(out: Path, name: str) -> dict[str, Any]:
    """The result file, which says where its numbers come from, beside a figure with text in it."""
    found = json.loads((out / "results" / f"{name}.json").read_text())
    assert found["command"].startswith("python benchmarks/")
    assert found["hardware"]["cpu"] and found["versions"]["torch"]
    assert found["revision"] == revision(Path(__file__).parent)
    drawing = ElementTree.parse(out / f"{name}.svg").getroot()
    assert next(drawing.iter("{http://www.w3.org/2000/svg}text"), None) is not None
    return found


def test_latency_models_are_compared_and_timings_are_kept(run, tmp_path: Path, capsys):
    kept = tmp_path / "timings"
    benchmark = run("latency_models", *SYNTHETIC, "--held-out", "4", "--timings", str(kept))
    found = results(tmp_path, "latency-models-synthetic")["networks"]["vgg11"]
    models = found["models"]
    assert models["insitu"]["mape"] < 1e-6 < models["flops"]["mape"]
    assert models["insitu"]["error"]["n"] == found["held_out_networks"] == 4
    assert found["fitted_networks"] == Profile().networks
    assert "timings of" not in capsys.readouterr().out
    device, profile = Device(runtime="synthetic"), Profile(held_out=4)
    read = benchmark.timed(benchmark.SUBJECTS[0], device, profile, kept)
    assert "timings of" in capsys.readouterr().out
    assert [t.latency.ms for t in read.held_out.timings] == models["insitu"]["measured_ms"]
    # Other settings are measured anew.
    benchmark.timed(benchmark.SUBJECTS[0], device, replace(profile, calls=profile.calls + 1), kept)
    assert "timings of" not in capsys.readouterr().out


def test_dimensions_are_scaled_alone(run, tmp_path: Path, capsys):
    run("dimensions", *SYNTHETIC)
    rows = results(tmp_path, "dimensions-synthetic-cpu")["networks"]["vgg11"]["dimensions"]
    assert set(rows) == {"width", "depth", "resolution"}
    assert len({of[0]["macs"] for of in rows.values()}) == 1
    for of in rows.values():
        assert len(of) == 5
        for row in of:
            assert row["gflops_per_second"] == pytest.approx(2e-6 * row["macs"] / row["ms"])
    assert rows["resolution"][2]["macs"] == pytest.approx(
        4 * rows["resolution"][0]["macs"], rel=0.01
    )
    assert rows["resolution"][2]["params"] == rows["resolution"][0]["params"]
    # The page has the figures of the usual device, which another must not write over.
    assert "dimensions-synthetic-cpu.svg" in capsys.readouterr().out
    assert not (tmp_path / "latency.md").exists()


def test_the_speed_of_allocation_is_measured(run, tmp_path: Path):
    run("allocation", "--networks", "allocation:chain8", "--repeats", "2")
    row = results(tmp_path, "allocation")["networks"]["allocation:chain8"]
    assert (row["groups"], row["seconds"]["n"]) == (8, 2)
    assert row["corrected_ops"] > 0  # the correction is most of what a question costs
    text = (tmp_path / "allocation.md").read_text()
    assert "| chain of 8 | 8 |" in text and "<!-- closed-loop -->" in text


def test_the_loop_is_closed_for_several_limits(run, tmp_path: Path, capsys):
    run("closed_loop", "--runtime", "synthetic", "--budgets", "2")
    found = results(tmp_path, "closed-loop-synthetic-cpu")
    assert [row["ratio"] for row in found["budgets"]] == [1.15, 3.0]
    assert found["over"] == found["again"] == 0
    for row in found["budgets"]:
        assert row["after_ms"] <= row["limit_ms"] * (1 + 1e-9)
        # A device without noise, and a model that knows its formula: the limit is used.
        assert row["after_ms"] == pytest.approx(row["predicted_ms"]) == row["choosing_ms"][-1]
    assert "0 of 2 limits" in capsys.readouterr().out


def test_what_a_trial_takes_beyond_its_epochs_is_known_from_the_end_before_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    overhead = import_module("overhead")
    # Two workers: the third trial follows the one that ends at 10, the fourth that at 12, the
    # fifth the third.
    ended, trained = [12.0, 10.0, 16.0, 17.5, 20.0], [9.0, 8.0, 5.0, 5.0, 3.0]
    assert overhead.beyond_epochs(ended, trained, 2) == [1.0, 0.5, 1.0]


def test_table_1_is_written_from_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table1 = import_module("table1")
    made = replace(whole_comparison(), data="Parquet files of /a/place/x: 60 images, 2 epochs")
    asked: list[str] = []

    def compared(recipe, name: str, arguments) -> tuple[Comparison, RunRecord]:
        asked.append(f"{name} {recipe.data.source} {arguments.seeds}")
        spec = made.entry("hacscale").proposal.spec
        rungs = tuple(
            Rung(epochs=epochs, accuracies=accuracies, seconds=1.0)
            for epochs, accuracies in ((3, (0.1, 0.2, 0.3)), (6, (0.5, 0.7, 0.6)))
        )
        ladder = FidelityLadder(networks=(spec,) * 3, rungs=rungs)
        return made, replace(example_run(), fidelity=ladder)

    monkeypatch.setattr(table1, "compared", compared)
    out = tmp_path / "docs"
    words = ["--recipes", "digits-vgg11", "--set", "data=parquet:/a/place", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["table1.py", *words])
    table1.main()
    assert asked == ["digits-vgg11 parquet:/a/place 3"]
    text = (out / "results/table1-digits-vgg11.json").read_text()
    found = json.loads(text)
    assert "/a/place" not in text and found["command"].endswith("data=parquet:PATH --out PATH")
    assert found["hardware"]["cpu"] and found["versions"]["torch"] and found["n"] == 3
    ours = next(e for e in made.entries if e.proposal.method == "hacscale")
    row = next(row for row in found["table"] if row["method"] == "hacscale")
    assert row["top1_mean"] == pytest.approx(fmean(ours.accuracies))
    assert row["top1_sd"] == pytest.approx(stdev(ours.accuracies))

    page, readme = (out / "table1.md").read_text(), (tmp_path / "README.md").read_text()
    assert "Reduced form: widths × 0.25, 400 training images, 16 epochs in place of 300." in page
    assert "Parquet files of PATH: 60 images" in page
    plain = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "Widths: `algorithm-1` 73.4 % (73.1, 73.7) at " in plain
    assert "`uniform-alpha` 71.6 % (71.2, 72.0) at " in plain
    answer = (
        "The answer is that of `algorithm-1`; 0 of the others cannot be distinguished from it. "
    )
    assert f"{answer}The response surface tells" in plain
    assert "left out of its fit with R² = 0.43." in plain
    assert "3 epochs order the networks as 6 do with Kendall's τ = 0.33" in plain
    resolutions = re.findall(r"(\d+) px ([\d.]+) % \(([\d., ]+)\)", plain.partition("Widths:")[0])
    assert len(resolutions) == len(example_run().alpha.candidates)
    for _, mean, repeats in resolutions:
        assert float(mean) == pytest.approx(fmean(map(float, repeats.split(", "))), abs=0.1)
    assert f"The best is {example_run().alpha.resolution} px" in plain
    model, rounds = example_run().profile.quality, example_run().allocate.rounds
    off, limit_ms = f"{100 * model.mape:.1f}", made.latency_limit_ms
    assert f"The latency model was off by {off} % on {len(model.measured_ms)} networks" in plain
    distances = re.findall(r"([+−][\d.]+) %", plain.partition("of Algorithm 1 lay")[2])
    for found_ms, distance in zip(rounds, distances[: len(rounds)], strict=True):
        share = 100 * (found_ms.latency.ms / limit_ms - 1)
        assert float(distance.replace("−", "-")) == pytest.approx(share, abs=0.06)
    assert "Power and GFLOP/J were not measured: the system shows no RAPL counter." in page
    rows = re.findall(r"^\| (?:\*\*)?`(\S+?)`", page, re.MULTILINE)
    assert rows == [row["method"] for row in found["table"]]
    assert len(re.findall(r"^\| .*`", readme.partition("end of table1")[0], re.MULTILINE)) == 6
    for text, folder in ((page, out), (readme, tmp_path)):
        drawn = re.findall(r"\]\((\S+digits-vgg11\S+\.svg)\)", text)
        assert drawn and all((folder / picture).exists() for picture in drawn)

    # The base network's mean to that of the result, and to that of resolution alone.
    mean = {e.proposal.method: fmean(e.accuracies) for e in made.entries}
    gain, part = (100 * (mean[m] - mean["base"]) for m in ("hacscale", "resolution"))
    plain = page.replace("\u00a0", " ")
    told = f"hacscale, at 40 px, is {gain:+.1f} points from the base network; resolution alone, "
    assert f"{told}at the 32 px that the limits leave it, {part:+.1f} points." in plain
    # Of one resolution, a share can be told.
    words = import_module("table1_words")
    spec = made.entry("resolution").proposal.spec
    entries = [
        replace(e, proposal=replace(e.proposal, spec=spec)) if e is made.entry("hacscale") else e
        for e in made.entries
    ]
    plain = words.outcome(replace(made, entries=tuple(entries))).replace("\u00a0", " ")
    told = f"{gain:+.1f} points from the base network; resolution alone {part:+.1f} points, "
    assert f"{told}{100 * part / gain:.0f} % of that; the two are a tie." in plain

    monkeypatch.setattr(sys, "argv", ["table1.py", "--recipes", "--out", str(out)])
    table1.main()  # from the files alone
    assert len(asked) == 1 and (out / "table1.md").read_text() == page
