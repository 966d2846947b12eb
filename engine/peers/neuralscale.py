"""Widths that follow the power laws by which a network shrinks while it is pruned."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from engine.errors import UserError
from engine.gates import check_gates
from engine.largest import largest
from engine.peers.contract import BOTH, Question, Resource, Trainings
from engine.peers.shrinking import shrinking_task, valid
from engine.shrinking import Pruning, Shrunk
from engine.spec import NetworkSpec

_FEWEST = 3
"""Networks on a path that power laws are fitted to."""
_LARGEST = 1e3
"""Where the search for τ ends, times the budget: groups at their widest leave room to others."""
_LARGEST_LOG = 60.0
"""Of a width, which is cut to the widest that a group may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralScale:
    """Every group's own power law of its width in the number of parameters, solved at the limits.

    The network is pruned to a twentieth while it is trained (`Pruning`), the widths φ_l that are
    left are recorded with the parameters τ, and ln φ_l = ln α_l + β_l ln τ is fitted by least
    squares. Architecture descent repeats that from the network that the laws have at the base
    network's parameters. The answer has the τ at which the laws, rounded to valid widths, reach the
    limit of parameters; τ is lowered from there until the other limits hold too.

    Source: Lee and Lee, CVPR 2020; one iteration is the first step of its descent.
    Deviations: the training is the search's short one, with its schedule (published: 0.1 for 10
    epochs, then 0.01 and falling); groups that change together have one law; no width exceeds
    `allocate.max_width` times the base; where a pruning leaves fewer than three networks, the
    descent ends with the laws before it (published: with fewer than six it scales uniformly).

    Attributes:
        iterations: of the architecture descent; one training each. Published are 15.
        pruning: how a network is pruned.
    """

    name: str = "neuralscale"
    iterations: int = 15
    pruning: Pruning = field(default_factory=Pruning)
    limits: tuple[Resource, ...] = BOTH
    rests_on: tuple[Trainings, ...] = ()

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")

    def propose(self, question: Question) -> NetworkSpec:
        """See `engine.peers.contract.Method`."""
        graph, base = question.graph, question.base
        check_gates(graph, base.resolution)
        base_params = graph.cost(base).params
        spec, make, low = base, None, 0.0
        for _ in range(self.iterations):
            path = self._path(question, spec)
            if len(path) < _FEWEST:
                break
            make = partial(_network, question, fit_laws(path))
            low = math.log(path[-1].params)
            spec = make(_log_tau(question, make, low, base_params))
        if make is None:
            raise UserError(
                f"{self.name} needs {_FEWEST} networks left by a pruning in which every group lost "
                "a channel; train longer with --set sample.training.epochs=…, or leave it out"
            )
        high = math.log(question.limit.params * _LARGEST)
        return question.largest(make, low, high, self.limits)

    def _path(self, question: Question, spec: NetworkSpec) -> Sequence[Shrunk]:
        rows = question.train([shrinking_task(question, spec, self.pruning)])
        if not rows:
            raise UserError(
                f"{self.name}: the training that prunes has failed; see the run's failed trainings"
            )
        return rows[0].path or ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthLaws:
    """φ_l(τ) = α_l·τ^β_l: the width of every group in a network of τ parameters.

    Attributes:
        log_alpha: ln α_l, by group. A steep law has an α that no floating-point number holds.
        beta: β_l.
    """

    log_alpha: dict[str, float]
    beta: dict[str, float]

    def widths(self, tau: float) -> dict[str, float]:
        """Returns the width of every group, not rounded, at most e^`_LARGEST_LOG`."""
        log_tau = math.log(tau)
        return {
            group: math.exp(min(log_alpha + self.beta[group] * log_tau, _LARGEST_LOG))
            for group, log_alpha in self.log_alpha.items()
        }


def fit_laws(path: Sequence[Shrunk]) -> WidthLaws:
    """Fits ln φ_l = ln α_l + β_l ln τ by least squares, each group by itself.

    No β is negative on the path of a pruning, where widths and parameters only fall.

    Args:
        path: at least two networks of different numbers of parameters.
    """
    groups = list(path[0].widths)
    log_tau = np.log([shrunk.params for shrunk in path])
    log_phi = np.log([[shrunk.widths[group] for group in groups] for shrunk in path])
    beta, log_alpha = np.polyfit(log_tau, log_phi, 1)
    return WidthLaws(
        log_alpha=dict(zip(groups, log_alpha.tolist(), strict=True)),
        beta=dict(zip(groups, beta.tolist(), strict=True)),
    )


def _log_tau(
    question: Question, make: Callable[[float], NetworkSpec], low: float, params: int
) -> float:
    """The largest log τ whose network has no more parameters, ``low`` if there is none."""

    def keeps(log_tau: float) -> bool:
        return question.graph.cost(make(log_tau)).params <= params

    return largest(low, math.log(params * _LARGEST), keeps) or low


def _network(question: Question, laws: WidthLaws, log_tau: float) -> NetworkSpec:
    return valid(question, laws.widths(math.exp(log_tau)))
