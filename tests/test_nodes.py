"""Several nodes with made-up GPUs: the same rows as without Ray; memory that runs out."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster
from rich.console import Console
from tiny_training import tiny_data, tiny_task, train

from cluster.progress import Progress
from cluster.trials import TrialRunner
from engine.codec import canonical
from engine.recipe import Cluster
from engine.rows import Row, TrainingTask
from engine.store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before])
    cluster = RayCluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()
    os.environ["PYTHONPATH"] = before


def run(tasks: list[TrainingTask], directory: Path, resources: Cluster) -> tuple[RunStore, str]:
    store = RunStore(directory)
    said = io.StringIO()
    with Progress(Console(file=said, width=200)) as progress:
        runner = TrialRunner(
            store=store, data=ray.put(tiny_data()), resources=resources, progress=progress
        )
        runner.run_tasks("sample", tasks)
    return store, said.getvalue()


def content(row: Row | None) -> bytes:
    """All of a row but how long it took."""
    assert row is not None
    return canonical(
        replace(row, history=tuple(replace(epoch, seconds=0.0) for epoch in row.history))
    )


def test_nodes_give_the_rows_of_one_process_and_memory_that_runs_out_lowers_the_packing(
    nodes: None, tmp_path: Path
) -> None:
    plain = [tiny_task(seed=seed, importance=True) for seed in range(3)]
    hungry = replace(tiny_task(seed=7), loss="tiny_training:hungry")
    insatiable = replace(tiny_task(seed=8), loss="tiny_training:insatiable")
    resources = Cluster(gpus_per_trial=0.25)
    store, said = run([*plain, hungry, insatiable], tmp_path / "nodes", resources)

    for task in plain:
        alone = train(task, tmp_path / "alone").result()
        assert content(store.ledger.find(task.id)) == content(alone)
    fed, unfed = store.ledger.find(hungry.id), store.ledger.find(insatiable.id)
    assert fed is not None and fed.status == "done"
    assert unfed is not None and unfed.status == "failed"
    assert "out of GPU memory, with no other training on the GPU" in (unfed.error or "")
    assert "2 trainings ran out of GPU memory; from now on 2 share a GPU" in said
    assert "1 trainings ran out of GPU memory; from now on 1 share a GPU" in said
    # Lowering the packing trains nothing a second time.
    epochs = [line.split()[3:] for line in (store.logs / "epochs.log").read_text().splitlines()]
    assert len(epochs) == len(set(map(tuple, epochs))) == 3 * 4
