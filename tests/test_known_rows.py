"""Which trainings of a stage are done already: those with a row that can be read.

And with weights, where others start from them.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from quick_run import epochs_trained, without_ray
from rich.console import Console
from tiny_training import tiny_task

from cluster.progress import Progress
from cluster.trials import TrialRunner
from engine.codec import decode
from engine.errors import UserError
from engine.recipe import Cluster
from engine.rows import Row, Start, TrainingTask
from engine.store import RunStore
from engine.trained_weights import weights_name


def run(location: Path, task: TrainingTask) -> RunStore:
    store, data = RunStore(location), cast(Any, None)
    with without_ray(), Progress(Console(quiet=True)) as progress:
        runner = TrialRunner(store=store, data=data, resources=Cluster(), progress=progress)
        runner.run_tasks("sample", [task])
    return store


def test_a_row_of_another_version_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_task(seed=23)
    once = Counter((task.id, epoch) for epoch in (1, 2, 3))
    run(tmp_path, task).ledger.compact(at_least=1)
    assert epochs_trained(run(tmp_path, task)) == once

    def decoded(kind: type, text: str, what: str) -> object:
        """Reads rows in files of their own, but none of a part."""
        if kind is Row:
            raise UserError(f"{what}: unknown key 'colour'")
        return decode(kind, text, what)

    monkeypatch.setattr("engine.ledger.decode", decoded)
    store = run(tmp_path, task)
    row = store.ledger.find(task.id)
    assert row is not None and row.status == "done"
    assert epochs_trained(store) == once + once
    # Once: the new row is found in every later run.
    assert epochs_trained(run(tmp_path, task)) == once + once


def test_weights_to_start_from_that_are_gone_are_made_again_first(tmp_path: Path) -> None:
    short = tiny_task(seed=71, epochs=1)
    parent = replace(short, keep_weights=True)
    child = replace(short, start=Start(row=parent.id, spec=parent.spec))
    store = run(tmp_path, parent)
    store.weights.delete(weights_name(parent.id))
    store = run(tmp_path, child)  # which starts from weights that are there, or fails
    assert epochs_trained(store) == Counter({(parent.id, 1): 2, (child.id, 1): 1})
    for one in (parent, child):
        row = store.ledger.find(one.id)
        assert row is not None and row.status == "done"
