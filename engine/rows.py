"""One finished training: what was trained, and what came of it. A row of the ledger."""

from dataclasses import dataclass
from typing import Literal

from engine.codec import STRICT, digest
from engine.shrinking import Pruning, Shrunk, Sparsifying
from engine.spec import NetworkSpec
from engine.training import Training

NO_MEMORY = "no memory"
"""Status that a trial reports whose training ran out of GPU memory and left no row."""

Cheap = Literal["slimmable", "initial"]
"""Where importance may come from without a training of every sampled network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Networks whose importance one task finds; they take turns at its steps.

    Attributes:
        source: ``slimmable``: they share the weights of the task's network, of which each uses the
            first channels of every group, and train them; ``initial``: each has its own first
            weights, and nothing is trained.
        networks: each no wider than the task's.
    """

    __pydantic_config__ = STRICT

    source: Cheap
    networks: tuple[NetworkSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A finished training whose weights another one begins with.

    Attributes:
        row: its identity; its task asked for its weights to be kept.
        spec: its network, of the same graph.
    """

    __pydantic_config__ = STRICT

    row: str
    spec: NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What is to be trained. Its digest is the row's identity, whatever trial asked for it.

    Attributes:
        data: digest of the images, labels and split.
        seed: of initialisation, data order and augmentation.
        loss, metric: as in the recipe's task.
        importance: whether Eq. 5 is collected.
        sync_workers: whether it is the data-parallel final training. Its batch norm sees the
            whole batch, so the number of workers changes the rounding of sums alone, and does not
            belong to the identity.
        test: whether the finished network is judged on the test split, once.
        sampling: whose importance is collected in place of that of ``spec``; None for a training
            of ``spec`` itself.
        shrink: how channels are taken away while it is trained; None for a plain training.
        start: the weights to begin with, carried to the widths of ``spec``; None to begin anew.
        keep_weights: whether the weights are kept for trainings that start from them.
        filter_norms: whether the row has the norms of the trained filters.
        stoppable: whether a scheduler may end it early: such a row is no whole training's.
    """

    __pydantic_config__ = STRICT

    spec: NetworkSpec
    training: Training
    data: str
    seed: int
    loss: str = "cross-entropy"
    metric: str = "accuracy"
    importance: bool = False
    sync_workers: bool = False
    test: bool = False
    sampling: Sampling | None = None
    shrink: Pruning | Sparsifying | None = None
    start: Start | None = None
    keep_weights: Literal[True] | None = None
    filter_norms: Literal[True] | None = None
    stoppable: Literal[True] | None = None

    @property
    def id(self) -> str:
        """The identity of the row."""
        return digest(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of a training, as measured at its end on the validation split."""

    __pydantic_config__ = STRICT

    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A training that is over.

    Attributes:
        status: ``done``; ``stopped`` early by the scheduler; ``failed`` (see ``error``).
        history: the epochs in order; accuracies are shares in [0, 1].
        importance: Eq. 5 by width group, averaged over all steps; None unless collected.
        test_accuracy: on the test split after the last epoch; None unless asked for.
        sampled: Eq. 5 by width group of each network of ``task.sampling``; None without one.
        filter_norms: ‖Θ‖² of every channel by width group (`engine.filter_norms`); None unless
            asked for.
        error: one line, for a failed row.
        path: the networks that were left one after another; None unless it was shrunk.
        cpus, gpus: cores and GPUs that it held while it trained, over all its workers; None in
            rows that were written before this was kept.
    """

    __pydantic_config__ = STRICT

    task: TrainingTask
    status: Literal["done", "stopped", "failed"]
    history: tuple[Epoch, ...] = ()
    importance: dict[str, float] | None = None
    test_accuracy: float | None = None
    sampled: tuple[dict[str, float], ...] | None = None
    filter_norms: dict[str, tuple[float, ...]] | None = None
    error: str | None = None
    path: tuple[Shrunk, ...] | None = None
    cpus: int | None = None
    gpus: float | None = None

    @property
    def last(self) -> Epoch:
        """The last epoch of a row that has one."""
        return self.history[-1]
