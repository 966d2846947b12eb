"""Several nodes with made-up GPUs: the same rows as without Ray; memory that runs out."""

import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster as RayCluster
from rich.console import Console
from tiny_training import tiny_data, tiny_task, train

import cluster.device
from cluster.device import measure
from cluster.progress import Progress
from cluster.trials import TrialRunner
from engine.cli import main
from engine.codec import canonical
from engine.errors import UserError
from engine.graph import load_graph
from engine.measure import time_networks
from engine.recipe import Cluster, Device
from engine.rows import Row, TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from trainables.trial import TrainingTrial

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before])
    cluster = RayCluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, num_gpus=1, resources={"board": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ["PYTHONPATH"] = before


class OnCores(TrainingTrial):
    """A training that books made-up GPUs."""

    def device(self) -> torch.device:
        return torch.device("cpu")


class Together(OnCores):
    """Trains when three workers have begun."""

    def device(self) -> torch.device:
        begun = self._store.logs / "begun"
        begun.mkdir(exist_ok=True)
        (begun / str(os.getpid())).touch()
        deadline = time.monotonic() + 120
        while len(list(begun.iterdir())) < 3:
            assert time.monotonic() < deadline, "no third worker"
            time.sleep(0.1)
        return super().device()


def run(
    tasks: list[TrainingTask],
    directory: Path,
    resources: Cluster,
    trainable: type[TrainingTrial] = OnCores,
    display: type[Progress] = Progress,
) -> tuple[RunStore, str]:
    store = RunStore(directory)
    said = io.StringIO()
    with display(Console(file=said, width=200)) as progress:
        runner = TrialRunner(
            store=store,
            data=ray.put(tiny_data()),
            resources=resources,
            progress=progress,
            trainable=trainable,
        )
        runner.run_tasks("sample", tasks)
    return store, said.getvalue()


def content(row: Row | None) -> bytes:
    """All of a row but how long it took and what it held."""
    assert row is not None
    history = tuple(replace(epoch, seconds=0.0) for epoch in row.history)
    return canonical(replace(row, history=history, cpus=None, gpus=None))


def test_nodes_give_the_rows_of_one_process_and_memory_that_runs_out_lowers_the_packing(
    nodes: RayCluster, tmp_path: Path
) -> None:
    plain = [tiny_task(seed=seed, importance=True) for seed in range(3)]
    hungry = replace(tiny_task(seed=7), loss="tiny_training:hungry")
    insatiable = replace(tiny_task(seed=8), loss="tiny_training:insatiable")
    resources = Cluster(gpus_per_trial=0.25)
    store, said = run([*plain, hungry, insatiable], tmp_path / "nodes", resources)

    for task in plain:
        alone = train(task, tmp_path / "alone").result()
        assert content(store.ledger.find(task.id)) == content(alone)
    first = store.ledger.find(plain[0].id)
    assert first is not None and (first.cpus, first.gpus) in ((1, 0.25), (1, 0.5), (1, 1.0))
    fed, unfed = store.ledger.find(hungry.id), store.ledger.find(insatiable.id)
    assert fed is not None and fed.status == "done"
    assert unfed is not None and unfed.status == "failed"
    assert "out of GPU memory, with no other training on the GPU" in (unfed.error or "")
    assert "2 trainings ran out of GPU memory; from now on 2 share a GPU" in said
    assert "1 trainings ran out of GPU memory; from now on 1 share a GPU" in said
    # Lowering the packing trains nothing a second time.
    epochs = [(epoch.task, epoch.number) for epoch in store.epochs.read()]
    assert len(epochs) == len(set(epochs)) == 3 * 4


@pytest.mark.long
def test_a_node_that_joins_in_the_middle_of_a_stage_trains(
    nodes: RayCluster, tmp_path: Path
) -> None:
    started, joined = [], []

    class WhenTwoTrain(Progress):
        def trial_started(self, trial_id: str) -> None:
            super().trial_started(trial_id)
            started.append(trial_id)
            if len(started) == 2:
                joined.append(nodes.add_node(num_cpus=1, num_gpus=1))

    tasks = [tiny_task(seed=seed) for seed in range(7)]
    resources = Cluster(gpus_per_trial=1.0, retries=0)
    store, said = run(tasks, tmp_path, resources, Together, WhenTwoTrain)
    nodes.remove_node(joined[0])
    assert all(store.ledger.find(task.id) for task in tasks), said
    # Nobody else: a worker takes up one training after another.
    assert len(list((store.logs / "begun").iterdir())) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_pytorch_cannot_use_is_one_line_and_no_row(
    nodes: RayCluster, tmp_path: Path
) -> None:
    task = tiny_task(seed=1)
    with pytest.raises(UserError, match=r"a GPU is booked .* set cluster\.gpus_per_trial=0"):
        run([task], tmp_path, Cluster(gpus_per_trial=1.0), TrainingTrial)
    assert RunStore(tmp_path).ledger.find(task.id) is None


def test_a_device_that_is_a_node_is_measured_by_one_at_a_time(
    nodes: RayCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    base, wider = graph.spec(32, 1 / 16), graph.spec(32, 1 / 8)
    board = Device(runtime="synthetic", place="node:board")
    measure([base], base, board, 3, 2, False)  # its worker is there now, and quick
    held = Holder.remote()
    ray.get(held.ready.remote())
    assert caplog.text == ""
    monkeypatch.setattr(cluster.device, "_PATIENCE_SECONDS", 1.0)
    with ThreadPoolExecutor(1) as pool:
        measured = pool.submit(measure, [base, wider], base, board, 3, 2, False)
        with pytest.raises(NotYet):
            measured.result(timeout=3)
        assert "a measurement waits for Ray, which has" in caplog.text
        assert "0 of 1 board free; `ray status` says what others hold" in caplog.text
        ray.kill(held)
        found = measured.result(timeout=60)
    here = time_networks(graph, [base, wider], base, board, calls=3, rounds=2, per_layer=False)
    assert found.timings == here.timings
    with pytest.raises(UserError, match="no node of the Ray cluster has the resource 'camera'"):
        measure([base], base, replace(board, place="node:camera"), 3, 2, False)
    with pytest.raises(UserError, match=r"one measurement of the recipe needs 64 CPU, 1 board on"):
        measure([base], base, replace(board, threads=64), 3, 2, False)


def test_a_node_is_profiled_as_this_machine_is(
    nodes: RayCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["vgg11", "--input", "3x32x32", "--classes", "10"]
    fields = [
        "device.runtime=synthetic",
        "width=0.0625",
        "profile.networks=8",
        "profile.held_out=2",
    ]
    found = []
    for place, where in (("here", []), ("node:board", ["--address", nodes.address])):
        out = tmp_path / f"{place}.json"
        chosen = [*fields, f"device.place={place}", "--out", str(out)]
        main(["profile", *network, *where, "--set", *chosen])
        tree = json.loads(out.read_text())
        found.append((tree["timings"], tree["result"]["model"], tree["result"]["quality"]))
    assert found[0] == found[1]
    assert "measuring 10 networks on node:board" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["profile", *network, *where, "--set", *fields, "device.place=node:camera"])
    assert "no node of the Ray cluster has the resource 'camera'" in capsys.readouterr().err


@ray.remote(num_cpus=0, resources={"board": 1})
class Holder:
    """Somebody else who uses the board."""

    def ready(self) -> None:
        """Returns once it does."""
