"""A run keeps to the network that its factory made when it began."""

import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.factory import _Made, check_factory
from engine.graph import load_graph
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore

SOURCE = """
from torch import nn

import torch

SCALE = 1.0
SHIFTS = 0.0

class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shifts", SHIFTS + torch.arange(3.0).view(1, 3, 1, 1))
        self.register_buffer("drawn", torch.rand(1))

    def forward(self, x):
        return x + self.shifts * self.drawn

class DropPath(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.share, self.seed = (share, None), float(torch.rand(()))

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) < self.share[0])

def make(classes):  # a comment
    norm = nn.BatchNorm2d(8)
    nn.init.constant_(norm.weight, SCALE)
    return nn.Sequential(
        Shifted(), nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Dropout(0.1), DropPath(0.4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the factory's module, and returns its network before scaling."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> NetworkSpec:
        (tmp_path / "own_net.py").write_text(source)
        monkeypatch.delitem(sys.modules, "own_net", raising=False)
        load_graph.cache_clear()
        return load_graph(ModelRef(name="own_net:make", classes=10), 16).spec(16)

    return write


@pytest.mark.parametrize(
    "change",
    [
        ("nn.ReLU", "nn.SiLU"),
        ("0.1", "0.2"),
        ("nn.Conv2d(3, 8, 3)", "nn.Conv2d(3, 8, 5)"),
        ("SCALE = 1.0", "SCALE = 0.0"),
        ("SHIFTS = 0.0", "SHIFTS = 3.0"),
        ("DropPath(0.4)", "DropPath(0.3)"),
    ],
)
def test_another_network_under_the_same_name_is_refused(base, change, tmp_path: Path):
    run = RunStore(tmp_path / "run")
    check_factory(run, base(SOURCE))
    with pytest.raises(UserError, match=r"own_net:make makes another network .* another --name"):
        check_factory(run, base(SOURCE.replace(*change)))
    with pytest.raises(UserError, match="makes another network"):
        check_factory(RunStore(tmp_path / "run", read_only=True), base(SOURCE.replace(*change)))
    check_factory(run, base(SOURCE.replace("a comment", "another comment")))


def test_a_run_that_did_not_note_values_goes_on(base, tmp_path: Path):
    run, network = RunStore(tmp_path / "run"), base(SOURCE)
    identity = load_graph(network.model, network.resolution).identity(network)
    run.stage("network", _Made, network, lambda: _Made(digest=identity))
    check_factory(run, network)
    with pytest.raises(UserError, match="makes another network"):
        check_factory(run, base(SOURCE.replace("nn.ReLU", "nn.SiLU")))


def test_a_run_whose_frozen_parameters_were_drawn_is_refused(base, tmp_path: Path):
    drawn = 'self.register_buffer("drawn", torch.rand(1))'
    assert drawn in SOURCE
    frozen = SOURCE.replace(drawn, "self.drawn = nn.Parameter(torch.rand(1), requires_grad=False)")
    run, network = RunStore(tmp_path / "run"), base(frozen)
    identity = load_graph(network.model, network.resolution).identity(network)
    run.stage("network", _Made, network, lambda: _Made(digest=identity))
    with pytest.raises(UserError, match=r"has frozen parameters.* another --name"):
        check_factory(run, network)
    check_factory(RunStore(tmp_path / "new"), network)


def test_a_run_that_is_only_read_and_does_not_know_is_not_refused(base, tmp_path: Path):
    store = RunStore(tmp_path / "run", read_only=True)
    check_factory(store, base(SOURCE))
    assert not store.committed_stages()
