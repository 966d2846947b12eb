"""Loss and metric: the built-in ones, and functions of the user's own on dense targets."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from example_run import example_run

from cluster.network import BaseNetwork
from engine.errors import TrainingFailed, UserError
from engine.graph import load_graph
from engine.recipe import Data, Task
from engine.recipes import RECIPES
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.store import RunStore
from engine.training import Training
from trainables.data import load_data
from trainables.loop import NetworkTraining
from trainables.objective import make_objective
from trainables.tensors import TensorData

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> TrainingTask:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    graph = load_graph(ModelRef(name="segments:network", classes=1), 16)
    return TrainingTask(
        spec=graph.spec(16),
        training=Training(epochs=3, batch_size=64, lr=0.1, augment="none"),
        data="",
        seed=0,
        loss="segments:loss",
        metric="segments:overlap",
    )


def test_built_in_objective_is_cross_entropy_and_accuracy(task: TrainingTask) -> None:
    classes = replace(
        task,
        loss="cross-entropy",
        metric="accuracy",
        training=replace(task.training, label_smoothing=0.1),
    )
    objective = make_objective(classes)
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    targets = torch.tensor([0, 1])
    log_shares = outputs - outputs.exp().sum(1, keepdim=True).log()
    plain = -(log_shares[0, 0] + log_shares[1, 1]) / 2
    loss, scores = objective.judge(outputs, targets)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert scores.tolist() == [1.0, 0.0]
    smoothed = 0.9 * plain - 0.1 * log_shares.mean()
    assert objective.loss(outputs, targets).item() == pytest.approx(smoothed.item(), rel=1e-6)


def test_a_dense_task_is_trained_and_judged_by_the_users_functions(
    task: TrainingTask, tmp_path: Path
) -> None:
    data = load_data(Data(source="segments:data", resolution=16), any_targets=True)
    assert data.classes == 0
    assert data.validation.labels.shape[1:] == (16, 16)
    task = replace(task, data=data.digest, test=True)
    training = NetworkTraining(task, TensorData.on(data, torch.device("cpu")), RunStore(tmp_path))
    while not training.finished:
        training.run_epoch()
    row = training.result()
    assert row.history[-1].val_loss < row.history[0].val_loss

    # The score again, in one go and by hand.
    network = training.network.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    images = (torch.from_numpy(data.test.images) / 255 - mean) / std
    with torch.no_grad():
        found = (network(images)[:, 0] > 0).numpy()
    there = data.test.labels.astype(bool)
    scores = (found & there).sum((1, 2)) / np.maximum((found | there).sum((1, 2)), 1)
    assert row.test_accuracy == pytest.approx(scores.mean(), abs=1e-5)
    assert scores.mean() > 0.5


def test_the_same_at_a_larger_resolution(task: TrainingTask, tmp_path: Path) -> None:
    data = load_data(Data(source="segments:data", resolution=16), any_targets=True)
    larger = replace(
        task, data=data.digest, spec=task.spec.at(24), training=replace(task.training, epochs=1)
    )
    training = NetworkTraining(larger, TensorData.on(data, torch.device("cpu")), RunStore(tmp_path))
    assert training.run_epoch().val_accuracy > 0


@pytest.mark.parametrize(
    ("loss", "metric", "message"),
    [
        ("broken:per_image", "broken:scores", "task.loss must return one number"),
        ("broken:number", "broken:scores", "task.loss must return a tensor, not float"),
        ("broken:loss", "broken:one_score", "task.metric must return one score for each"),
        ("broken:loss", "broken:percent", "scores from 0 to 1, more for better, not 100;"),
        ("broken:loss", "broken:none", "scores from 0 to 1, more for better, not nan;"),
        ("broken:loss", "broken:number", "task.metric must return a tensor, not float"),
        ("broken:los", "broken:scores", "has no function 'los'; did you mean 'loss'"),
    ],
)
def test_functions_that_return_something_else_are_named(
    task: TrainingTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    metric: str,
    message: str,
) -> None:
    (tmp_path / "broken.py").write_text(
        "def per_image(o, t): return o.mean((1, 2, 3))\n"
        "def loss(o, t): return o.mean()\n"
        "def number(o, t): return float(o.mean())\n"
        "def scores(o, t): return o.mean((1, 2, 3))\n"
        "def percent(o, t): return 100 + 0 * o.mean((1, 2, 3))\n"
        "def none(o, t): return o.mean((1, 2, 3)) * float('nan')\n"
        "def one_score(o, t): return o.mean()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    data = load_data(Data(source="segments:data", resolution=16), any_targets=True)
    task = replace(task, data=data.digest, loss=loss, metric=metric)
    tensors = TensorData.on(data, torch.device("cpu"))
    with pytest.raises(UserError, match=message):
        NetworkTraining(task, tensors, RunStore(tmp_path)).run_epoch()
    # An epoch that cannot be judged is not kept: a mended function goes on without it.
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_a_training_that_diverges_fails_whatever_its_metric_would_say(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outputs are NaN, and so were the scores, which nobody could scale."""
    (tmp_path / "diverging.py").write_text(
        "def loss(o, t): return (o - 1e30).square().mean() * 1e30\n"
        "def metric(o, t): return 1 - (o - o.round()).abs().mean((1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load_data(Data(source="segments:data", resolution=16), any_targets=True)
    task = replace(task, data=data.digest, loss="diverging:loss", metric="diverging:metric")
    tensors = TensorData.on(data, torch.device("cpu"))
    with pytest.raises(TrainingFailed, match="the loss is not finite in epoch 1"):
        NetworkTraining(task, tensors, RunStore(tmp_path)).run_epoch()


def test_outputs_that_are_not_finite_are_worth_nothing(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text("def metric(o, t): return 1 - (o - t).abs().mean((1, 2))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = make_objective(replace(task, metric="half:metric")).metric
    targets = torch.zeros(2, 3, 3)
    assert metric(targets + 0.25, targets).tolist() == [0.75, 0.75]
    assert metric(targets + torch.tensor([torch.nan, 0.25])[:, None, None], targets).sum() == 0


def test_class_numbers_are_asked_for_unless_both_functions_are_the_users() -> None:
    assert Task().is_classification
    assert Task(loss="a:b").is_classification
    assert not Task(loss="a:b", metric="a:c").is_classification
    with pytest.raises(ValueError, match="loss must be cross-entropy"):
        Task(loss="mse")


def test_dense_targets_need_functions_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(UserError, match="of your own"):
        load_data(Data(source="segments:data", resolution=16))


def test_outputs_are_those_of_the_classes_or_refused() -> None:
    facts, recipe = example_run().data, RECIPES["digits-vgg11"]()
    for outputs in (1, facts.classes):
        asked = replace(recipe, task=Task(outputs=outputs))
        assert BaseNetwork(recipe=asked, facts=facts).ref.classes == facts.classes
    asked = replace(recipe, task=Task(outputs=5))
    assert BaseNetwork(recipe=asked, facts=replace(facts, classes=0)).ref.classes == 5
    with pytest.raises(UserError, match=r"task\.outputs is 5, but the targets are 10 classes"):
        _ = BaseNetwork(recipe=asked, facts=facts).ref
