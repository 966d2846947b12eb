"""The response surface against a known truth, and against the least squares it is made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import canonical, decode
from engine.errors import UserError
from engine.response import Observation, ResponseSurface
from engine.response_fit import fit_response
from engine.results import ImportancePredictor

BASE = {"a": 16, "b": 32, "c": 64}
TRUTH = {"a": 0.30, "b": 0.05, "c": 0.12}


def prior(**levels: float) -> dict[str, ImportancePredictor]:
    """C·I(C) at the base width is the given level."""
    return {
        g: ImportancePredictor(a=level, b=-1.0, b_se=0.1, r2=0.9, sum_r2=0.0, flag="")
        for g, level in levels.items()
    }


def truth(widths: dict[str, int], resolution: int, exponent: float = 0.5) -> float:
    at_width = sum(TRUTH[g] * (widths[g] / BASE[g]) ** -exponent for g in BASE)
    return 0.4 + at_width + 0.2 * (resolution / 32) ** -exponent


def networks(count: int, seed: int = 0, resolutions=(32,), noise: float = 0.0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(count):
        widths = {g: round(w * 2 ** rng.uniform(-1, 1)) for g, w in BASE.items()}
        resolution = int(rng.choice(resolutions))
        loss = truth(widths, resolution) + rng.normal(0, noise)
        seen.append(Observation(resolution=resolution, widths=widths, loss=loss))
    return seen


def test_a_noise_free_surface_is_found_whatever_the_prior_says() -> None:
    misled = prior(a=1.0, b=5.0, c=0.1)
    surface = fit_response(networks(40, resolutions=(32, 40, 48)), BASE, 32, misled)
    assert surface.exponent == 0.5
    assert surface.pull == 0.01
    assert surface.r2 > 0.98
    for group, gain in TRUTH.items():
        assert surface.gains[group] == pytest.approx(gain, rel=0.1, abs=0.01)
    assert surface.resolution_gain == pytest.approx(0.2, rel=0.1)
    for seen in networks(20, seed=1, resolutions=(32, 48)):
        predicted = surface(seen.widths, seen.resolution)
        assert predicted == pytest.approx(seen.loss, abs=0.01)


def test_with_few_noisy_networks_a_right_prior_helps() -> None:
    judges = networks(50, seed=99)

    def error(believed: dict[str, ImportancePredictor], seed: int) -> float:
        surface = fit_response(networks(6, seed, noise=0.03), BASE, 32, believed)
        return float(np.mean([(surface(s.widths, 32) - s.loss) ** 2 for s in judges]))

    wrong = prior(a=0.05, b=0.30, c=0.05)
    errors = np.array([[error(prior(**TRUTH), seed), error(wrong, seed)] for seed in range(20)])
    assert errors[:, 0].mean() < 0.8 * errors[:, 1].mean()


def test_one_resolution_gives_it_no_gain() -> None:
    assert fit_response(networks(12), BASE, 32, prior(**TRUTH)).resolution_gain == 0


def test_the_marginal_gain_is_the_slope_of_the_surface() -> None:
    surface = fit_response(networks(20), BASE, 32, prior(**TRUTH))
    widths = {"a": 20, "b": 40, "c": 50}
    for group, predictor in surface.predictors().items():
        wider = {**widths, group: widths[group] * 1.0001}
        slope = (surface(widths, 32) - surface(wider, 32)) / (0.0001 * widths[group])
        assert predictor(widths[group]) == pytest.approx(slope, rel=1e-3)


NOISY = networks(10, noise=0.01)
PLAIN = fit_response(NOISY, BASE, 32, prior(**TRUTH))


@settings(max_examples=40)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-10, 10))
def test_the_unit_of_the_loss_does_not_matter(scale: float, shift: float) -> None:
    seen, plain = NOISY, PLAIN
    other = fit_response(
        [
            Observation(resolution=s.resolution, widths=s.widths, loss=scale * (s.loss + shift))
            for s in seen
        ],
        BASE,
        32,
        prior(**TRUTH),
    )
    assert (other.exponent, other.pull) == (plain.exponent, plain.pull)
    expected = {group: scale * gain for group, gain in plain.gains.items()}
    assert other.gains == pytest.approx(expected, rel=1e-3, abs=1e-6 * scale)


def test_equal_losses_give_a_flat_surface() -> None:
    seen = [Observation(resolution=32, widths=n.widths, loss=1.5) for n in networks(8)]
    surface = fit_response(seen, BASE, 32, prior(**TRUTH))
    assert set(surface.gains.values()) == {0.0} and surface.floor == pytest.approx(1.5)
    assert surface.r2 == 0.0


def test_a_surface_that_knows_nothing_has_an_r2_of_zero() -> None:
    """Wider networks are worse here; no gain is negative, so its guess is the others' mean."""
    seen = [
        Observation(resolution=32, widths=n.widths, loss=2 - truth(n.widths, 32))
        for n in networks(12)
    ]
    surface = fit_response(seen, BASE, 32, prior(**TRUTH))
    assert set(surface.gains.values()) == {0.0}
    assert surface.r2 == pytest.approx(0.0, abs=0.001)  # by the mean of all it would be −0.19


def test_it_goes_through_its_file() -> None:
    surface = fit_response(networks(8), BASE, 32, prior(**TRUTH))
    assert decode(ResponseSurface, canonical(surface), "surface") == surface


def test_too_few_networks_are_one_line() -> None:
    with pytest.raises(UserError, match="needs at least 4 trained networks, not 3"):
        fit_response(networks(3), BASE, 32, prior(**TRUTH))
    with pytest.raises(UserError, match="not 3"):
        fit_response(networks(3) * 2, BASE, 32, prior(**TRUTH))
    with pytest.raises(ValueError, match="loss must be finite"):
        Observation(resolution=32, widths=BASE, loss=float("nan"))


def test_seeds_of_one_network_are_left_out_together() -> None:
    """Its twin would give away what a network that is left out comes to."""
    seen = networks(6, noise=0.05)
    once = fit_response(seen, BASE, 32, prior(a=1.0, b=1.0, c=1.0))
    twice = fit_response([*seen, *seen], BASE, 32, prior(a=1.0, b=1.0, c=1.0))
    assert twice.rmse > 0.9 * once.rmse
