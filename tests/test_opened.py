"""What is done again where failed trainings are to be tried once more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_comparison import whole_comparison
from example_run import example_run
from tiny_training import tiny_task

from cluster.opened import forget_failures
from engine.provenance import run_info
from engine.recipe import Choose, Recipe
from engine.recipes import RECIPES
from engine.rows import Row
from engine.store import RunStore

RECORD = example_run()
PROPOSAL = next(e.proposal for e in whole_comparison().entries if e.proposal.method == "netadapt")
FAILED = Row(task=tiny_task(seed=1), status="failed", history=(), error="not finite")
REPEATS = len(RECORD.choose.candidates[0].accuracies)
COMPLETE: dict[str, Any] = {
    "alpha": replace(RECORD.alpha, failed=0),
    "sample": replace(RECORD.sample, failures=()),
    "fit": RECORD.fit,
    "choose": replace(RECORD.choose, left_out={}),
    "propose-netadapt": replace(PROPOSAL, trained=("a",)),
}
first, *others = RECORD.choose.candidates
LACKING: dict[str, Any] = {
    "alpha": replace(RECORD.alpha, failed=1),
    "sample": replace(RECORD.sample, failures=("not finite",)),
    "choose": replace(
        RECORD.choose, candidates=(first, replace(others[0], accuracies=first.accuracies[1:]))
    ),
    "propose-netadapt": replace(PROPOSAL, trained=("a", FAILED.task.id)),
}


def committed(folder: Path, outputs: dict[str, Any]) -> RunStore:
    recipe: Recipe = replace(RECIPES["digits-vgg11"](), choose=Choose(repeats=REPEATS))
    store = RunStore(folder)
    store.write_info(run_info("mine", "", recipe))
    store.ledger.add(FAILED)
    for name, output in outputs.items():
        store.stage(name, type(output), 1, lambda output=output: output)
    return store


def test_a_failure_opens_no_stage_that_came_to_its_end_without_it(tmp_path: Path) -> None:
    store = committed(tmp_path, COMPLETE)
    forget_failures(store)
    assert not list(store.ledger.rows())
    assert store.committed_stages() == sorted(COMPLETE)


@pytest.mark.parametrize(
    "lacking",
    [
        replace(RECORD.choose, left_out={"netadapt": "every training of a step failed"}),
        replace(
            RECORD.choose, candidates=(first, replace(others[0], trained=("a", FAILED.task.id)))
        ),
    ],
)
def test_rivals_that_trainings_failed_are_asked_again(lacking: Any, tmp_path: Path) -> None:
    store = committed(tmp_path, COMPLETE | {"choose": lacking})
    forget_failures(store)
    assert store.committed_stages() == sorted(COMPLETE.keys() - {"choose"})


@pytest.mark.parametrize("stage", LACKING)
def test_a_failure_opens_the_stage_that_lacks_it(stage: str, tmp_path: Path) -> None:
    store = committed(tmp_path, COMPLETE | {stage: LACKING[stage]})
    forget_failures(store)
    assert store.committed_stages() == sorted(COMPLETE.keys() - {stage})


def test_a_damaged_stage_is_left_to_who_reads_it(tmp_path: Path) -> None:
    store = committed(tmp_path, {"sample": LACKING["sample"]})
    (output,) = tmp_path.glob("sample-*/output.json")
    output.write_bytes(b"{")
    forget_failures(store)
    assert store.committed_stages() == ["sample"]
    again = store.stage("sample", type(RECORD.sample), 1, lambda: COMPLETE["sample"])
    assert again == COMPLETE["sample"]
