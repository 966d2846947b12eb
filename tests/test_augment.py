"""Augmentation against naive versions, image by image."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.transforms import v2

from trainables.augment import augment, mixup, to_batch
from trainables.autoaugment import AutoAugment

KINDS = ["none", "shift", "crop-flip", "autoaugment"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n: int, side: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), generator=generator(9)).byte()


def crops(image: torch.Tensor, pad: int) -> list[torch.Tensor]:
    """All crops of the reflect-padded image, by padding it."""
    side = image.shape[-1]
    padded = functional.pad(image[None].float(), (pad,) * 4, mode="reflect")[0]
    offsets = itertools.product(range(2 * pad + 1), repeat=2)
    return [padded[:, y : y + side, x : x + side].to(image.dtype) for y, x in offsets]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("kind", "mirrors"), [("shift", False), ("crop-flip", True)])
def test_crops_are_those_of_the_reflect_padded_image(kind, mirrors: bool, dtype) -> None:
    batch = random_batch(300, 16).to(dtype)
    changed = augment(batch, kind, generator())
    assert changed.dtype == dtype
    found = []
    for image, result in zip(batch, changed, strict=True):
        candidates = crops(image, pad=2)
        if mirrors:
            candidates += [crop.flip(-1) for crop in candidates]
        matches = [i for i, crop in enumerate(candidates) if torch.equal(crop, result)]
        assert len(matches) == 1
        found += matches
    # Of 300 uniform draws from 25 or 50, none is missed but with probability below 25·(24/25)^300
    # (1e-4) for the crops, and mirrored ones are 150 with a standard deviation of 9.
    assert {i % 25 for i in found} == set(range(25))
    assert abs(sum(i >= 25 for i in found) - (150 if mirrors else 0)) < 45


def test_images_too_small_for_a_pad_are_not_moved() -> None:
    batch = random_batch(40, 7)
    assert torch.equal(augment(batch, "shift", generator()), batch)
    flipped = augment(batch, "crop-flip", generator())
    same = [torch.equal(a, b) for a, b in zip(batch, flipped, strict=True)]
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(batch, flipped, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 0 < sum(mirrored) < 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_decided_by_the_generator_alone(kind, channels: int) -> None:
    batch = random_batch(24, 16, channels)
    kept = batch.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(batch, kind, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(batch, kind, generator(5)), first)
    assert torch.equal(batch, kept)
    assert first.shape == batch.shape
    assert first.dtype == torch.uint8
    if kind == "none":
        assert torch.equal(first, batch)
    else:
        assert not torch.equal(augment(batch, kind, generator(6)), first)
        source = generator(5)
        augment(batch, kind, source)
        assert not torch.equal(augment(batch, kind, source), first)


def test_autoaugment_changes_more_than_the_crop() -> None:
    batch = random_batch(32, 16)
    plain = augment(batch, "crop-flip", generator(3))
    changed = augment(batch, "autoaugment", generator(3))
    differ = sum(not torch.equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert 10 < differ <= 32


def draws_of(policy: v2.AutoAugment, which: float, *turns: float):
    """What torchvision's forward draws in turn: whether, and a sign where it then needs one."""
    told = []
    for turn, (name, share, _) in enumerate(policy._policies[int(which * 25)]):
        applied, sign = turns[2 * turn : 2 * turn + 2]
        told += [applied, *[sign] * (applied <= share and policy._AUGMENTATION_SPACE[name][1])]
    return lambda *_: torch.tensor(told.pop(0), dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_autoaugment_of_a_batch_is_that_of_every_image(channels: int, monkeypatch) -> None:
    """torchvision's own forward, image by image, which is given the same numbers to draw."""
    images = random_batch(200, 16, channels)
    numbers = torch.rand(200, 5, dtype=torch.float64, generator=generator(2))
    policy, expected = v2.AutoAugment(), list[torch.Tensor]()
    for image, told in zip(images, numbers.tolist(), strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, told=told: torch.tensor(int(told[0] * 25)))
            patch.setattr(torch, "rand", draws_of(policy, *told))
            expected.append(policy(image))
    changed = images.clone()
    AutoAugment().change(changed, numbers[:, 0], numbers[:, 1:])
    assert torch.equal(changed, torch.stack(expected))
    assert sum(not torch.equal(a, b) for a, b in zip(changed, images, strict=True)) > 100


def test_to_batch_normalises_by_channel() -> None:
    images = random_batch(4, 6)
    mean, std = (0.5, 0.25, 0.125), (0.25, 0.5, 0.2)
    batch = to_batch(images, 6, mean, std)
    expected = images.numpy() / 255.0
    for channel in range(3):
        expected[:, channel] = (expected[:, channel] - mean[channel]) / std[channel]
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_to_batch_centres_a_channel_without_spread() -> None:
    batch = to_batch(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8), 4, (0.2,), (0.0,))
    assert torch.all(batch.abs() < 1e-6)


def triangle_weights(side: int, resolution: int) -> np.ndarray:
    """Bilinear resampling with antialiasing as a matrix: a triangle as wide as the scale."""
    scale = side / resolution
    support = max(scale, 1.0)
    centres = (np.arange(resolution) + 0.5) * scale
    distance = np.abs(np.arange(side) + 0.5 - centres[:, None])
    weights = np.clip(1 - distance / support, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("resolution", [4, 6, 8, 12, 20])
def test_to_batch_resizes_with_antialiasing(resolution: int) -> None:
    images = random_batch(3, 12)
    weights = triangle_weights(12, resolution)
    expected = weights @ (images.numpy() / 255.0) @ weights.T
    batch = to_batch(images, resolution, (0.0,) * 3, (1.0,) * 3)
    np.testing.assert_allclose(batch.numpy(), expected, atol=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 5), st.integers(2, 12))
def test_mixup_is_a_convex_combination_of_pairs(seed: int, alpha: float, n: int) -> None:
    batch = torch.randn(n, 3, 4, 4, generator=generator(seed))
    labels = torch.arange(n) % 5
    mixed, soft = mixup(batch, labels, n + 5, alpha, generator(seed))
    assert mixed.dtype == soft.dtype == torch.float32
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    # Distinct one-hot "images" show who was mixed with whom, and by how much.
    shares, same_labels = mixup(
        torch.eye(n).view(n, n, 1, 1), torch.arange(n), n, alpha, generator(seed)
    )
    shares = shares.view(n, n)
    assert torch.equal(shares, same_labels)
    torch.testing.assert_close(shares.sum(0), torch.ones(n))
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", shares, batch))
    torch.testing.assert_close(soft, shares @ functional.one_hot(labels, n + 5).float())


def test_mixup_draws_its_share_from_the_beta_distribution() -> None:
    alpha, source = 0.4, generator(1)
    eye = torch.eye(2).view(2, 2, 1, 1)
    # With two images a derangement mixes them; its diagonal is λ.
    shares = []
    while len(shares) < 1500:
        share = float(mixup(eye, torch.arange(2), 2, alpha, source)[0][0, 0])
        if share < 1:
            shares.append(share)
    # Var of Beta(α, α) is 1/(4(2α + 1)); the mean of 1500 has a standard error of 0.0096.
    assert abs(np.mean(shares) - 0.5) < 0.04
    assert abs(np.var(shares) - 1 / (4 * (2 * alpha + 1))) < 0.015


def test_mixup_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(4)
    np.random.seed(4)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = mixup(torch.rand(6, 1, 2, 2, generator=generator()), torch.arange(6), 6, 0.2, generator(7))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    b = mixup(torch.rand(6, 1, 2, 2, generator=generator()), torch.arange(6), 6, 0.2, generator(7))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
