"""Learning rates against closed forms and against PyTorch's schedulers where they coincide."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from engine.training import PAPER_CIFAR, PAPER_IMAGENET, Training
from trainables.schedule import learning_rate


def optimizer(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scheduler: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def ours(training: Training, times: list[float]) -> list[float]:
    return [learning_rate(training, time) for time in times]


def test_the_first_epoch_has_the_peak_rate_however_short_a_training_is():
    printed = Training(epochs=300, lr=0.1, schedule="step", milestones=(100, 150, 225))
    assert [printed.for_epochs(e).milestones for e in (1, 2, 8)] == [
        (1, 1, 1),
        (1, 1, 2),
        (3, 4, 6),
    ]


def test_nesterov_without_a_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        Training(epochs=1, momentum=0.0, nesterov=True)


def test_one_cycle_equals_pytorchs_after_its_warm_up() -> None:
    epochs, per_epoch, warm_up = 10, 7, 3
    training = Training(epochs=epochs, lr=0.3, warmup_epochs=warm_up)
    # PyTorch's cycle runs over steps 0 to total − 1, and peaks at pct_start·total − 1.
    total, peak = epochs * per_epoch + 1, warm_up * per_epoch
    torchs = lr_scheduler.OneCycleLR(
        optimizer(1.0),
        max_lr=0.3,
        total_steps=total,
        pct_start=(peak + 1) / total,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=1e12,
        final_div_factor=1e12,
    )
    found = rates(torchs, total - 1)
    times = [step / per_epoch for step in range(total - 1)]
    assert ours(training, times)[peak:] == pytest.approx(found[peak:], abs=1e-9)
    linear = lr_scheduler.LinearLR(optimizer(0.3), 1e-12, 1.0, total_iters=peak)
    assert ours(training, times)[:peak] == pytest.approx(rates(linear, peak), abs=1e-9)


def test_one_cycle_without_a_warm_up_is_cosine_annealing() -> None:
    training = Training(epochs=8, lr=0.3)
    found = rates(lr_scheduler.CosineAnnealingLR(optimizer(0.3), T_max=8), 8)
    assert ours(training, list(range(8))) == pytest.approx(found)


def test_step_equals_pytorchs() -> None:
    training = Training(epochs=12, lr=0.4, schedule="step", milestones=(3, 7, 10))
    found = rates(lr_scheduler.MultiStepLR(optimizer(0.4), [3, 7, 10], gamma=0.1), 12)
    assert ours(training, list(range(12))) == pytest.approx(found)


def test_exponential_equals_pytorchs() -> None:
    training = Training(epochs=9, lr=2.0, schedule="exponential", final_lr_ratio=0.02)
    found = rates(lr_scheduler.ExponentialLR(optimizer(2.0), 0.02 ** (1 / 9)), 9)
    assert ours(training, list(range(9))) == pytest.approx(found)


def test_the_schedules_of_the_paper() -> None:
    """Section IV: 0.1, a tenth of it from epochs 100, 200 and 250; and 2.0·0.02^(t/T)."""
    cifar = {0.5: 0.1, 99.9: 0.1, 100: 0.01, 199.9: 0.01, 200: 1e-3, 250: 1e-4, 299.9: 1e-4}
    assert ours(PAPER_CIFAR, list(cifar)) == pytest.approx(list(cifar.values()))
    imagenet = {5: 2 * 0.02**0.05, 50: 2 * 0.02**0.5, 100: 0.04}
    assert ours(PAPER_IMAGENET, list(imagenet)) == pytest.approx(list(imagenet.values()))
    assert learning_rate(PAPER_IMAGENET, 2.5) == pytest.approx(1.0)


def test_ends() -> None:
    one_cycle = Training(epochs=10, lr=0.3, warmup_epochs=4)
    assert ours(one_cycle, [0, 2, 4, 7]) == pytest.approx([0, 0.15, 0.3, 0.15])
    assert learning_rate(one_cycle, 10) == pytest.approx(0, abs=1e-15)
    exponential = Training(epochs=10, lr=0.3, schedule="exponential", final_lr_ratio=0.1)
    assert ours(exponential, [0, 10]) == pytest.approx([0.3, 0.03])


def test_a_training_that_ends_in_its_warm_up_keeps_rising() -> None:
    training = Training(epochs=2, lr=1.0, warmup_epochs=2)
    assert ours(training, [0.5, 1.5, 1.999]) == pytest.approx([0.25, 0.75, 0.9995])
    assert math.isfinite(learning_rate(training, 2))


@given(
    st.sampled_from(["one-cycle", "step", "exponential"]),
    st.integers(1, 50),
    st.floats(0, 1),
    st.floats(0, 0.999),
)
def test_rates_are_positive_and_at_most_the_peak(
    schedule: Any, epochs: int, warm_up: float, done: float
) -> None:
    training = Training(
        epochs=epochs,
        lr=0.7,
        schedule=schedule,
        milestones=(max(1, epochs // 2),),
        warmup_epochs=warm_up * epochs,
    )
    # The loop asks for the middle of each step: never for the very start or end.
    rate = learning_rate(training, (done + 5e-4) * epochs)
    assert 0 < rate <= 0.7


@given(st.sampled_from(["one-cycle", "step", "exponential"]), st.integers(1, 20))
def test_a_shorter_training_has_the_same_rates_in_less_time(schedule: Any, epochs: int) -> None:
    whole = Training(epochs=40, lr=0.7, schedule=schedule, milestones=(20, 30), warmup_epochs=8)
    short = whole.for_epochs(2 * epochs)
    for done in (0.05, 0.3, 0.51, 0.95):
        # Milestones are whole epochs, so they move by up to half of one.
        if schedule != "step" or epochs % 2 == 0:
            rate = learning_rate(short, done * short.epochs)
            assert rate == pytest.approx(learning_rate(whole, done * whole.epochs))
