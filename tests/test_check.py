"""`hacscale check`: what it finds, says and refuses."""

from dataclasses import replace
from io import StringIO

import example_networks as examples
import pytest
import torch
from example_networks import Net
from example_run import example_run
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from cluster.network import BaseNetwork
from engine.check import check_network, model_ref
from engine.check_view import render_check
from engine.cli import main
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph, trace_graph
from engine.recipe import Data, Task
from engine.recipes import RECIPES
from engine.spec import ModelRef


def ref(factory, classes=5):
    name = factory if isinstance(factory, str) else f"{factory.__module__}:{factory.__name__}"
    return ModelRef(name=name, classes=classes)


def test_check_passes_and_says_what_touches_a_group():
    check = check_network(ref("resnet18", 10), 64)
    assert check.passed and len(check.groups) == 12
    graph = load_graph(ref("resnet18", 10), 64)
    base = graph.cost(graph.spec(64))
    assert (check.macs, check.params) == (base.macs, base.params)
    block = next(row for row in check.groups if row.group.name == "layer1.0.conv1")
    convolutions = 2 * 9 * 64 * 64
    assert block.params == convolutions + 2 * 64  # and the batch norm between
    assert block.macs == convolutions * 16 * 16


@pytest.mark.parametrize("factory", examples.FOLLOWED, ids=lambda f: f.__name__)
def test_check_passes_example_networks(factory):
    assert check_network(ref(factory), 32, seed=1).passed


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (examples.Regularised, "cannot be taken apart for model.py"),
        (examples.SharedConv, ""),
        (examples.Asserted, ""),
    ],
)
def test_check_says_before_any_training_what_cannot_be_exported(factory, words):
    check = check_network(ref(factory), 32)
    assert check.passed
    assert words in check.not_plain
    assert bool(check.not_plain) == bool(words)
    output = StringIO()
    Console(file=output, width=200).print(render_check(check))
    assert ("cannot be exported" in output.getvalue()) == bool(words)


def test_check_names_the_group_that_fails(monkeypatch):
    graph = trace_graph(ref("resnet18", 10), 64)
    real = NetworkGraph.replacements

    def forgetful(self, spec, group):
        found = real(self, spec, group)
        if group == "layer2.0.conv1":
            del found["layer2.0.bn1"]
        return found

    monkeypatch.setattr(NetworkGraph, "replacements", forgetful)
    check = check_network(graph.ref, 64)
    assert not check.passed and not check.failure
    (row,) = [row for row in check.groups if row.failure]
    assert row.group.name == "layer2.0.conv1" and "layer2.0.bn1" in row.failure


def test_check_counts_with_pytorch(monkeypatch):
    real = NetworkGraph.cost

    def wrong(self, spec):
        cost = real(self, spec)
        return replace(cost, layers=(replace(cost.layers[0], macs=1), *cost.layers[1:]))

    monkeypatch.setattr(NetworkGraph, "cost", wrong)
    assert "PyTorch counts" in check_network(ref("resnet18", 10), 64).failure


def test_check_finds_layers_outside_of_the_loss():
    assert "dead.weight" in check_network(ref(examples.DeadEnd), 32).failure


@pytest.mark.parametrize(
    ("size", "classes", "words"),
    [
        ("3x32", 10, "CxHxW"),
        ("3x32x64", 10, "equal"),
        ("0x32x32", 10, "CxHxW"),
        ("3x32x32", 0, "classes"),
    ],
)
def test_check_arguments(size, classes, words):
    with pytest.raises(UserError, match=words):
        model_ref("vgg11", size, classes)


def test_check_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["check", "resnet18", "--input", "3x64x64", "--classes", "10", "--exclude", "conv1"])
    shown = capsys.readouterr().out
    assert "layer1.1.conv1" in shown and "excluded" in shown and "pass" in shown
    for arguments, code in (
        (["check", "example_networks:DeadEnd", "--input", "3x32x32"], 1),
        (["check", "vit_b_16"], 2),
        (["check", "resnet18", "--exclude", "layer9.*"], 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == code


# Training mode -------------------------------------------------------------------------------


class NormOfOnePixel(Net):
    """In training mode the norm's statistics are of one pixel, which PyTorch refuses."""

    def __init__(self, classes):
        super().__init__(classes)
        self.norm = nn.InstanceNorm2d(8, track_running_stats=True)

    def body(self, x):
        return self.norm(x.mean((2, 3), keepdim=True))


def test_what_fails_as_written_is_a_failure():
    check = check_network(ref(NormOfOnePixel), 16)
    assert not check.passed and not any(row.failure for row in check.groups)
    assert check.failure.startswith("as written, in training mode: layer norm: Expected more than")


class DropPath(nn.Module):
    """Asks for a value, which the meta device does not have."""

    def forward(self, x):
        if not self.training or torch.rand((), device=x.device) < 0.5:
            return x
        return 2 * x


class Dropped(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.drop = DropPath()

    def body(self, x):
        return x + self.drop(F.relu(x))


def test_a_drop_path_that_asks_for_a_value_passes():
    assert check_network(ref(Dropped), 16).passed


class Noisy(nn.Module):
    """Its noise is not recorded: it has weights, so it is no drop path, and acts in training."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        if self.training:
            x = x + torch.randn_like(x)
        return self.conv(F.dropout(x, 0.1, self.training))


class NoisyNet(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.noisy = Noisy()

    def body(self, x):
        return self.noisy(x)


class Undecided(Net):
    """Cannot be traced in training mode."""

    def body(self, x):
        return 2 * x if self.training and x.mean() > 0 else x


def test_what_is_called_in_training_only_is_said():
    check = check_network(ref(NoisyNet), 16)
    assert check.training_only == ("randn_like in noisy", "add in noisy")
    assert "left out, because called in training mode only: randn_like in noisy" in shown(check)
    assert check.evaluation_only == ()
    undecided = check_network(ref(Undecided), 16)
    assert undecided.training_only is None
    assert "left out, and not known: it cannot be traced in that mode" in shown(undecided)
    for name in ("densenet121", "efficientnet_b0"):
        found = check_network(ref(name), 64)
        assert found.training_only == found.evaluation_only == ()


class ScaledInEvaluation(Net):
    """A branch that is dropped at random in training, and scaled by its probability otherwise."""

    def body(self, x):
        return x + x if self.training else 0.5 * x + x


def test_what_is_called_in_evaluation_only_is_said():
    check = check_network(ref(ScaledInEvaluation), 16)
    assert check.evaluation_only == ("mul",)
    assert "though called in evaluation mode only: mul" in shown(check)


def shown(check):
    console = Console(width=200, file=StringIO())
    console.print(render_check(check))
    return console.file.getvalue()


# Resolution and outputs ----------------------------------------------------------------------


class FixedPool(Net):
    def forward(self, x):
        return self.head(F.max_pool2d(self.stem(x), 16).squeeze(-1).squeeze(-1))


def test_another_resolution_is_tried():
    check = check_network(ref(FixedPool), 16)
    assert check.passed and "cannot take 32×32 px, node squeeze" in shown(check)
    assert not check_network(ref(examples.LeNet), 32).larger


class Seven(Net):
    def __init__(self, classes):
        super().__init__(7)


def test_the_outputs_are_shown_and_must_be_the_classes():
    assert "it returns N×7\n" in shown(check_network(ref(Seven), 16))
    assert check_network(ref(examples.UNet), 32).outputs == (5, 32, 32)


def base(factory, loss="cross-entropy"):
    recipe = RECIPES["digits-vgg11"]()
    plain = replace(recipe.train, augment="none", label_smoothing=0.0)
    recipe = replace(
        recipe,
        model=ref(factory).name,
        data=Data(source="digits", resolution=16),
        train=plain,
        alpha=replace(recipe.alpha, training=plain),
        sample=replace(recipe.sample, training=plain),
        task=Task(loss=loss),
    )
    return BaseNetwork(recipe=recipe, facts=example_run().data)


@pytest.mark.parametrize(("factory", "returned"), [(Seven, "N×7"), (examples.UNet, "N×10×16×16")])
def test_cross_entropy_needs_an_output_for_each_class(factory, returned):
    with pytest.raises(UserError, match=f"returns {returned}, but cross-entropy needs N×10 for"):
        _ = base(factory).graph
    assert base(factory, loss="mine:loss").graph.groups
    assert base(NoisyNet).graph.groups
