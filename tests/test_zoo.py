"""Every classification network of torchvision: traced, widened at random, counted by PyTorch."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from engine.errors import UserError
from engine.graph import load_graph
from engine.networks import make_network
from engine.spec import ModelRef

CLASSES = 1000
RESOLUTION = 224
NAMES = models.list_models(module=models)
TRANSFORMERS = tuple(n for n in NAMES if n.startswith(("vit", "swin", "maxvit")))
CONVOLUTIONAL = tuple(n for n in NAMES if n not in TRANSFORMERS)
ONE_OF_EACH = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11_bn",
    "wide_resnet50_2",
)
OURS = ("vgg11", "vgg13", "vgg16", "vgg19")
"""Names under which the CIFAR form is made, not torchvision's."""


def cases(names):
    return [n if n in ONE_OF_EACH else pytest.param(n, marks=pytest.mark.long) for n in names]


def original(name):
    """Torchvision's own module on the meta device, where its factory allows that."""
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("regnet"):  # its factory computes with tensors
        ref = ModelRef(name=name, classes=CLASSES)
        return make_network(ref, without_values=True).to("meta")
    with torch.device("meta"):
        return models.get_model(name, weights=None, num_classes=CLASSES, **options)


def counted(module):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.empty(1, 3, RESOLUTION, RESOLUTION, device="meta"))
    return counter.get_total_flops() / 2, sum(p.numel() for p in module.parameters())


def random_spec(graph, seed):
    chance = random.Random(seed)
    return graph.spec(RESOLUTION).with_widths(
        {
            g.name: max(1, round(g.base / g.multiple * chance.uniform(0.5, 1.7))) * g.multiple
            for g in graph.groups
        }
    )


def test_every_family_is_here():
    assert set(ONE_OF_EACH) <= set(NAMES)
    assert {n.rstrip("_0123456789") for n in TRANSFORMERS} == {
        "maxvit_t", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "vit_b",
        "vit_h", "vit_l",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", cases(CONVOLUTIONAL))
def test_costs_are_what_pytorch_counts(name):
    graph = load_graph(ModelRef(name=name, classes=CLASSES), RESOLUTION)
    base = graph.spec(RESOLUTION)
    if name not in OURS:
        theirs = original(name)
        cost = graph.cost(base)
        assert (cost.macs, cost.params) == counted(theirs)
        mine = {key: tensor.shape for key, tensor in graph.skeleton(base).state_dict().items()}
        assert mine == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    spec = random_spec(graph, seed=len(name))
    cost = graph.cost(spec)
    assert spec != base
    assert (cost.macs, cost.params) == counted(graph.skeleton(spec))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_refused_with_a_sentence(name):
    with pytest.raises(UserError) as refusal:
        load_graph(ModelRef(name=name, classes=CLASSES), RESOLUTION)
    message = str(refusal.value)
    assert name in message and "\n" not in message
    assert any(place in message for place in ("layer ", "node ", "parameter "))


@pytest.mark.parametrize(
    ("name", "params", "activations"),
    # Radosavovic et al. 2020 count the elements that convolutions write: 11.1 M in ResNet-50,
    # 16.2 M in ResNet-101; https://github.com/facebookresearch/pycls, MODEL_ZOO.md. The sum below
    # has those of the classifier as well.
    [("resnet50", 25.6e6, 11.1e6), ("resnet101", 44.6e6, 16.2e6)],
)
def test_published_sizes(name, params, activations):
    graph = load_graph(ModelRef(name=name, classes=CLASSES), RESOLUTION)
    cost = graph.cost(graph.spec(RESOLUTION))
    assert cost.params == pytest.approx(params, rel=0.003)
    written = sum(layer.out_size for layer in cost.layers if layer.macs)
    assert written == pytest.approx(activations, rel=0.006)
