"""A run as one frozen tree: what to scale, on which data and device, under which limits."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from engine.codec import STRICT, decode, jsonable
from engine.errors import UserError, nearest, require
from engine.limits import Limits
from engine.plain_yaml import load_yaml
from engine.rows import Cheap
from engine.training import FAST, TRAININGS, Training

Choice = Literal["importance", "per-ms", "per-param", "per-limit"]
"""Which group Algorithm 1 widens next; see `Allocate`."""
CHOICES: tuple[Choice, ...] = get_args(Choice)
Mode = Literal["greedy", "paper"]
"""How Algorithm 1 ends; see `Allocate`."""

_MOST = 100
"""No multiplier of widths or compute is larger: such a network would fit in no memory."""


def _require_seed(seed: int) -> None:
    require(0 <= seed < 2**32, "seed must lie in 0 to 2**32 - 1", seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The data set and what of it is used.

    Attributes:
        source: ``digits``, ``cifar10``, ``cifar100``, ``imagefolder:PATH``, ``parquet:PATH`` or
            ``package.module:function``.
        resolution: side of the square images the base network takes, in pixels.
        stored_resolution: side at which images are kept, from which every network's own input is
            made; ``resolution`` if it is null. Photographs need more, up to the largest
            resolution that α can come to: what was thrown away cannot be scaled up again.
        validation_share: part of the training data that every decision is made on.
        train_images: use only so many training images (after the split), drawn once.
        seed: of the split and the draw.
    """

    __pydantic_config__ = STRICT

    source: str = "digits"
    resolution: int = 32
    stored_resolution: int | None = None
    validation_share: float = 0.15
    train_images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.resolution >= 1, "resolution must be at least 1", self.resolution)
        require(
            self.stored_resolution is None or self.stored_resolution >= self.resolution,
            f"stored_resolution must be at least resolution ({self.resolution})",
            self.stored_resolution,
        )
        require(
            0 < self.validation_share < 1,
            "validation_share must lie between 0 and 1",
            self.validation_share,
        )
        require(
            self.train_images is None or self.train_images >= 2,
            "train_images must be at least 2",
            self.train_images,
        )
        _require_seed(self.seed)

    @property
    def stored(self) -> int:
        """Side at which images are kept, in pixels."""
        return self.stored_resolution or self.resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt. The defaults are image classification.

    Attributes:
        loss: ``cross-entropy``, or ``package.module:function`` of (outputs, targets) that returns
            the mean loss of the batch. The targets are what the data source gives, in its own
            resolution; where the input is scaled, the function makes the two fit. It needs
            ``augment: none``, ``mixup: 0`` and ``label_smoothing: 0`` in all three trainings.
        metric: ``accuracy``, or ``package.module:function`` of (outputs, targets) that returns a
            score in [0, 1] for every image of the batch, higher is better. Whatever is called
            accuracy in results and reports is its mean.
        outputs: what a model factory is called with where the targets are no class numbers: of
            another type than integers, or with further axes.
    """

    __pydantic_config__ = STRICT

    loss: str = "cross-entropy"
    metric: str = "accuracy"
    outputs: int = 1

    def __post_init__(self) -> None:
        for name, built_in in (("loss", "cross-entropy"), ("metric", "accuracy")):
            value = getattr(self, name)
            require(
                value == built_in or ":" in value,
                f"{name} must be {built_in} or package.module:function",
                value,
            )
        require(self.outputs >= 1, "outputs must be at least 1", self.outputs)

    @property
    def is_classification(self) -> bool:
        """Whether the targets must be class numbers."""
        return self.loss == "cross-entropy" or self.metric == "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where latency counts. A profile is valid for one such combination only.

    Attributes:
        runtime: ``eager`` or ``compile`` (PyTorch, inductor), ``cuda-graph`` (PyTorch, captured
            once), ``onnxruntime``, or ``synthetic`` (a device with a known formula and no noise,
            for tests and dry runs).
        accelerator: ``cpu`` or ``cuda``.
        layout: of activations and weights in memory, ``contiguous`` or ``channels_last``.
        threads: intra-op threads of the CPU.
        batch: images per forward.
        place: ``here``; ``node:RESOURCE``, a Ray node that was started with that custom resource;
            or ``offline``, a device that Ray does not reach: files go there and come back.
    """

    __pydantic_config__ = STRICT

    runtime: Literal["eager", "compile", "cuda-graph", "onnxruntime", "synthetic"] = "eager"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    threads: int = 1
    batch: int = 1
    place: str = "here"

    def __post_init__(self) -> None:
        require(self.threads >= 1, "threads must be at least 1", self.threads)
        require(self.batch >= 1, "batch must be at least 1", self.batch)
        require(
            self.runtime != "cuda-graph" or self.accelerator == "cuda",
            "runtime cuda-graph needs accelerator cuda",
            self.accelerator,
        )
        require(
            self.runtime not in ("onnxruntime", "synthetic") or self.accelerator == "cpu",
            f"runtime {self.runtime} needs accelerator cpu",
            self.accelerator,
        )
        require(
            self.runtime not in ("onnxruntime", "synthetic") or self.layout == "contiguous",
            f"runtime {self.runtime} chooses its layout itself: layout must be contiguous",
            self.layout,
        )
        require(
            self.place in ("here", "offline") or bool(self.node_resource),
            "place must be here, offline or node:RESOURCE",
            self.place,
        )
        require(
            self.place != "offline" or self.runtime == "eager",
            "a device that is offline is measured with runtime eager: it needs PyTorch alone",
            self.runtime,
        )

    @property
    def node_resource(self) -> str:
        """The custom resource of the Ray node that is the device; empty where it is none."""
        kind, _, resource = self.place.partition(":")
        return resource if kind == "node" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How the latency model is made.

    Attributes:
        model: its kind. ``insitu`` is for a device that can be timed op by op; docs/latency.md says
            how wrong it was there, and what the others are for.
        networks: networks timed for the fit: the base network, corners, a sweep, random ones.
        held_out: further ones that only judge it.
        min_width, max_width: bounds of the networks' width multipliers, which are log-uniform.
        calls: timed forwards of each network in each round at the least; more fit into 30 ms.
        rounds: how often every network is timed, some time apart; at least 3.
        seed: of the random networks.
        file: a profile that ``hacscale profile --out`` wrote for this network and device, used in
            place of making one. It is read once and kept in the run.
        table: latencies of single layers that others measured, for model lut (docs/profile.md).
        calibrate: false: the networks of the profile give that table no scale and no offset; the
            sum of its layers stands, and they only judge it.
    """

    __pydantic_config__ = STRICT

    model: Literal[
        "insitu", "lut", "neuralpower", "paleo", "roofline", "flops", "systolic", "pim"
    ] = "insitu"
    networks: int = 36
    held_out: int = 8
    min_width: float = 0.5
    max_width: float = 4.0
    calls: int = 3
    rounds: int = 4
    seed: int = 0
    file: str = ""
    table: str = ""
    calibrate: Literal[False] | None = None

    def __post_init__(self) -> None:
        require(not self.table or self.model == "lut", "table needs model lut", self.table)
        require(
            self.calibrate is None or self.table != "", "calibrate=false needs a table", self.table
        )
        require(self.networks >= 4, "networks must be at least 4", self.networks)
        require(self.held_out >= 2, "held_out must be at least 2", self.held_out)
        require(self.calls >= 3, "calls must be at least 3", self.calls)
        require(self.rounds >= 3, "rounds must be at least 3", self.rounds)
        require(0 < self.min_width <= 1, "min_width must lie in (0, 1]", self.min_width)
        require(1 <= self.max_width <= _MOST, f"max_width must lie in 1 to {_MOST}", self.max_width)
        _require_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alpha:
    """The search for α: how compute is split between resolution and width (Eq. 3, 4).

    Attributes:
        budget: s, the compute multiplier that α splits, and with it the highest resolution that
            can be found: about √s times the base's. The paper does not print its value.
        candidates: what stands for an α. ``limits``: the base's widths times the largest number
            that keeps all limits as predicted, at the resolution √s^α times the base's, so that
            what is compared could be an answer; an s that reaches beyond what the limits leave at
            the base's own widths is lowered to that. ``compute``, the paper's: s times the
            multiply-accumulates of the base network, split by α.
        low, high: bounds of α.
        trials: values of α. The first max(4, ``batch``), rounded up to whole batches, are evenly
            spaced from ``low`` to ``high``; the sampler chooses the others (`searchers.alpha`).
        batch: trials asked together. A recipe field and not the number of workers, so that
            every machine asks the same questions.
        repeats: seeds per network.
        sampler: ``tpe``, ``gp`` or ``random`` of Optuna, or ``cmaes`` of the package of that name;
            ``random`` draws all values.
        scheduler: ``none``, or ``asha`` to stop bad trainings early.
        round_to: resolutions are multiples of this many pixels.
        training: the short training of each candidate.
    """

    __pydantic_config__ = STRICT

    budget: float = 4.0
    candidates: Literal["limits", "compute"] = "limits"
    low: float = 0.05
    high: float = 0.95
    trials: int = 12
    batch: int = 4
    repeats: int = 2
    sampler: Literal["tpe", "gp", "cmaes", "random"] = "tpe"
    scheduler: Literal["none", "asha"] = "none"
    round_to: int = 8
    training: Training = field(default_factory=lambda: FAST.for_epochs(6))

    def __post_init__(self) -> None:
        require(1 < self.budget <= _MOST, f"budget must lie in (1, {_MOST}]", self.budget)
        require(
            0 < self.low < self.high < 1,
            "the bounds of α must satisfy 0 < low < high < 1",
            (self.low, self.high),
        )
        require(self.trials >= 1, "trials must be at least 1", self.trials)
        require(self.batch >= 1, "batch must be at least 1", self.batch)
        require(self.repeats >= 1, "repeats must be at least 1", self.repeats)
        require(self.round_to >= 1, "round_to must be at least 1", self.round_to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Importance sampling: random widths, trained in parallel (Eq. 5).

    Attributes:
        source: ``trained``, every network on its own, as in the paper; ``slimmable``, all in one
            training, in which they share weights and take turns; or ``initial``, from some batches
            through every network before any training. ``hacscale compare`` shows how near the two
            come to the first.
        networks: how many networks are trained.
        block: networks per Latin hypercube; hypercubes follow one another, so that more
            networks extend the same sequence.
        stop_at_b_ci: stop once the 95 % interval of every group's exponent b is no wider
            than ± this; looked at after every block, so that the answer depends on no timing.
            null to train all.
        min_width, max_width: bounds of the multipliers of the base widths, which are log-uniform.
        training: the short training of each network.
    """

    __pydantic_config__ = STRICT

    source: Literal["trained"] | Cheap = "trained"
    networks: int = 16
    block: int = 8
    stop_at_b_ci: float | None = None
    min_width: float = 0.5
    max_width: float = 2.0
    training: Training = field(default_factory=lambda: FAST.for_epochs(6))

    def __post_init__(self) -> None:
        require(self.networks >= 3, "networks must be at least 3", self.networks)
        require(self.block >= 2, "block must be at least 2", self.block)
        require(
            self.stop_at_b_ci is None or self.stop_at_b_ci > 0,
            "stop_at_b_ci must be above zero",
            self.stop_at_b_ci,
        )
        require(
            self.stop_at_b_ci is None or self.source == "trained",
            "stop_at_b_ci must be null unless source is trained: there is one task and no blocks",
            self.stop_at_b_ci,
        )
        require(
            0 < self.min_width < self.max_width <= _MOST,
            f"the width multipliers must satisfy 0 < min_width < max_width <= {_MOST}",
            (self.min_width, self.max_width),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocate:
    """Algorithm 1.

    Attributes:
        mode: ``greedy`` (a group whose next step does not fit is closed and the others go on) or
            ``paper`` (the printed loop: it ends at the first step that does not fit).
        stride: channels of a step. With null, ``greedy`` steps from one plateau of the device's
            latency to the next, as the latency model found them, and ``paper`` adds 10 channels.
        choice: the group that is widened is the one of greatest predicted ``importance``, the
            paper's rule, or of most importance added ``per-ms``, ``per-param`` or ``per-limit``,
            which is for what a step takes of that which every limit leaves. With null,
            ``greedy`` goes by ``per-limit`` and ``paper`` by ``importance``.
        max_width: widest multiple of a group's base width.
        rounds: how often the winner may be measured and the latency model rescaled.
    """

    __pydantic_config__ = STRICT

    mode: Mode = "greedy"
    stride: int | None = None
    choice: Choice | None = None
    max_width: float = 4.0
    rounds: int = 3

    def __post_init__(self) -> None:
        require(self.stride is None or self.stride >= 1, "stride must be at least 1", self.stride)
        require(
            self.mode == "greedy" or self.rule == "importance",
            "choice must be importance with mode paper, which is the printed loop",
            self.choice,
        )
        require(1 <= self.max_width <= _MOST, f"max_width must lie in 1 to {_MOST}", self.max_width)
        require(self.rounds >= 1, "rounds must be at least 1", self.rounds)

    @property
    def rule(self) -> Choice:
        """The choice that holds."""
        return self.choice or ("importance" if self.mode == "paper" else "per-limit")

    def choosing(self, mode: Mode, choice: Choice) -> "Allocate":
        """Returns these settings with another mode and choice, and the stride of that mode."""
        return replace(self, mode=mode, choice=choice, stride=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose:
    """Which network is the answer.

    Attributes:
        rivals: methods of scaling (docs/compare.md) that keep all limits and the network's depth.
            Their networks are trained like those of the sample stage, beside that of Algorithm 1,
            and the best on the validation split is the answer. With none, Algorithm 1's is, as in
            the paper.
        repeats: trainings of each network, of which the mean counts.
    """

    __pydantic_config__ = STRICT

    rivals: tuple[str, ...] = ("uniform-alpha", "inverse-width", "response")
    repeats: int = 2

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "repeats must be at least 1", self.repeats)
        require(len(set(self.rivals)) == len(self.rivals), "rivals must differ", list(self.rivals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Resources. They change how fast a run is, and are in no row's identity.

    What a run finds they change in two ways: trainings that fail more often than ``retries`` are
    left out, and floats are summed in another order with other numbers of cores and workers.

    Attributes:
        cpus_per_trial: CPU cores, and intra-op threads, of one training.
        gpus_per_trial: share of a GPU for one training; ``auto`` measures the largest network of a
            stage on one GPU and packs as many onto each as memory and utilisation allow. Where
            memory runs out after all, fewer share a GPU from then on.
        final_workers: data-parallel workers of the final training.
        final_workers_min: with fewer free than ``final_workers``, it begins with so many and grows
            or shrinks as machines come and go; null to wait for all.
        checkpoint_minutes: epochs longer than this are kept within as well.
        retries: how often a training whose worker died or raised is started again.
        max_failure_share: a stage with more failed rows than this ends the run.
    """

    __pydantic_config__ = STRICT

    cpus_per_trial: int = 1
    gpus_per_trial: float | Literal["auto"] = 0.0
    final_workers: int = 2
    final_workers_min: int | None = None
    checkpoint_minutes: float = 10.0
    retries: int = 2
    max_failure_share: float = 0.5

    def __post_init__(self) -> None:
        gpus = self.gpus_per_trial
        require(self.cpus_per_trial >= 1, "cpus_per_trial must be at least 1", self.cpus_per_trial)
        require(
            gpus == "auto" or 0 <= gpus <= 1,
            "gpus_per_trial must be auto or a share of one GPU, in [0, 1]",
            gpus,
        )
        require(self.final_workers >= 1, "final_workers must be at least 1", self.final_workers)
        require(
            self.final_workers_min is None or 1 <= self.final_workers_min <= self.final_workers,
            "final_workers_min must lie in 1 to final_workers",
            self.final_workers_min,
        )
        require(
            self.checkpoint_minutes > 0,
            "checkpoint_minutes must be above zero",
            self.checkpoint_minutes,
        )
        require(self.retries >= 0, "retries must not be negative", self.retries)
        require(
            0 <= self.max_failure_share < 1,
            "max_failure_share must be in [0, 1)",
            self.max_failure_share,
        )

    @property
    def uses_gpus(self) -> bool:
        """Whether trainings run on GPUs."""
        return self.gpu_share > 0

    @property
    def gpu_share(self) -> float:
        """GPUs of one training at the most: all of one where that is measured later."""
        return 1.0 if self.gpus_per_trial == "auto" else self.gpus_per_trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run.

    Attributes:
        model: ``vgg11`` … ``vgg19``, a network of torchvision (docs/networks.md), or
            ``package.module:factory``.
        width: multiplier on all widths of ``model`` that makes the base network.
        seed: of initialisation, data order, augmentation and everything that is drawn.
        train: the training of the baseline and of the result.
    """

    __pydantic_config__ = STRICT

    model: str = "vgg11"
    width: float = 1.0
    seed: int = 0
    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    limits: Limits
    device: Device = field(default_factory=Device)
    profile: Profile = field(default_factory=Profile)
    alpha: Alpha = field(default_factory=Alpha)
    sample: Sample = field(default_factory=Sample)
    allocate: Allocate = field(default_factory=Allocate)
    choose: Choose = field(default_factory=Choose)
    train: Training = FAST
    cluster: Cluster = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        require(0 < self.width <= _MOST, f"width must lie in (0, {_MOST}]", self.width)
        _require_seed(self.seed)
        require(
            self.profile.max_width >= self.allocate.max_width,
            f"profile.max_width must be at least allocate.max_width, {self.allocate.max_width:g}, "
            "as a latency model is not extrapolated; lower both",
            self.profile.max_width,
        )
        require(
            self.train.batch_size >= self.cluster.final_workers,
            "train.batch_size must be at least cluster.final_workers, who share each batch",
            (self.train.batch_size, self.cluster.final_workers),
        )

        for name, training in self._trainings():
            require(
                self.task.loss == "cross-entropy"
                or (training.augment, training.mixup, training.label_smoothing) == ("none", 0, 0),
                f"{name} needs augment none, mixup 0 and label_smoothing 0 with a loss of your own",
                (training.augment, training.mixup, training.label_smoothing),
            )

    def _trainings(self) -> tuple[tuple[str, Training], ...]:
        return (
            ("train", self.train),
            ("alpha.training", self.alpha.training),
            ("sample.training", self.sample.training),
        )

    def check_batches(self, train_images: int) -> None:
        """Checks that every training's batch is filled by the training split.

        Raises:
            UserError: one is not.
        """
        for name, training in self._trainings():
            if training.batch_size > train_images:
                raise UserError(
                    f"{name}.batch_size {training.batch_size} is more than the {train_images} "
                    f"training images; lower it to at most {train_images}"
                )


def load_recipe(path: Path, limits: Mapping[str, str] | None = None) -> Recipe:
    """Reads a recipe from a YAML file.

    Args:
        path: of the file.
        limits: that stand in for those of the file.

    Raises:
        UserError: no such file, not YAML, unknown keys or wrong types.
    """
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the recipe {path}: {error.strerror}; give a file that is there, or a "
            "name that `hacscale recipes` lists"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not a YAML file for recipes: {error}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise UserError(f"{path} must hold the keys of a recipe, not {found}; see docs/recipe.md")
    given = tree.get("limits") or {}
    if limits and isinstance(given, dict):
        tree["limits"] = {**given, **limits}
    return _from_tree(tree, str(path))


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """Returns the recipe with ``a.b=value`` assignments applied; values are YAML.

    ``data=SOURCE`` is short for ``data.source=SOURCE``, and its value is taken as it is. Other
    epochs of a training take its warm-up and milestones along, unless these are assigned too.

    Raises:
        UserError: not an assignment, an unknown key or a wrong type.
    """
    tree: dict[str, Any] = jsonable(recipe)
    assigned: set[str] = set()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes key=value, not {assignment!r}")
        try:
            value = text if key == "data" else load_yaml(text)
        except ValueError:
            raise UserError(f"--set {key}: {text!r} is not a YAML value; quote it") from None
        *parents, leaf = ("data.source" if key == "data" else key).split(".")
        node = tree
        for part in parents:
            node = _at(node, part, key)
        _at(node, leaf, key)
        if leaf == "epochs" and type(value) is int and value >= 1:
            beside = key.removesuffix("epochs")
            # What was assigned is of the new number of epochs.
            own = assigned - {key}
            old = {name: field for name, field in node.items() if beside + name not in own}
            training = decode(Training, json.dumps(old), f"--set {key}").for_epochs(value)
            fields = jsonable(training).items()
            node.update({name: field for name, field in fields if beside + name not in assigned})
        node[leaf] = value
        assigned.add(key)
        _expand_trainings(tree)
    return _from_tree(tree, "--set")


def _at(node: Any, part: str, key: str) -> Any:
    if not isinstance(node, dict):
        raise UserError(f"--set {key}: there are no keys below that value, so no {part!r}")
    if part not in node:
        raise UserError(f"--set {key}: unknown key {part!r}{nearest(part, node)}")
    return node[part]


def _expand_trainings(tree: dict[str, Any], above: str = "") -> None:
    """Replaces the name of a training by its fields, wherever a training stands."""
    for key, value in tree.items():
        if isinstance(value, dict):
            if key in ("train", "training") and "epochs" not in value:
                raise UserError(
                    f"{above}{key}.epochs is missing: a training that is written out is no change "
                    f"of another; for that use --set {above}{key}.lr=0.1"
                )
            _expand_trainings(value, f"{above}{key}.")
        elif key in ("train", "training") and isinstance(value, str):
            if value not in TRAININGS:
                raise UserError(f"unknown training {value!r}{nearest(value, TRAININGS)}")
            tree[key] = jsonable(TRAININGS[value])


def _from_tree(tree: dict[str, Any], what: str) -> Recipe:
    _expand_trainings(tree)
    if isinstance(tree.get("data"), str):
        tree["data"] = {"source": tree["data"]}
    limits = tree.get("limits")
    if limits is None and tree.keys() <= {one.name for one in fields(Recipe)}:
        raise UserError(f"{what}: there are no limits; add `limits: {{latency: 1.5x, params: 2x}}`")
    if isinstance(limits, dict):
        if "params" not in limits and "latency" in limits:
            raise UserError(f"{what}: limits.params is missing; 100x leaves parameters free")
        # A count is a number in YAML; beside ratios and units it is one more way to write a limit.
        tree["limits"] = {
            key: str(limit) if type(limit) in (int, float) else limit
            for key, limit in limits.items()
        }
    try:
        text = json.dumps(tree, allow_nan=False)
    except ValueError:
        raise UserError(f"{what}: numbers must be finite, found one that is not") from None
    return decode(Recipe, text, what)
