"""What a search is going to take, before anything is booked.

One worker times a few steps of the base network. A training is expected to take that time times
its share of multiply-accumulates: MACs of its network × epochs × (3 × training images + validation
images), as a backward pass costs two forward passes. Expected, not known:

- α is drawn evenly, the resolution it comes to is that of the middle, and the result has the MACs
  of the α search's budget; only then do the limits and the device decide. With
  ``alpha.candidates: limits`` networks are as large as the limits allow, with latency taken to grow
  as multiply-accumulates do where it is a ratio, which small networks undercut by far: what the
  other limits alone allow is told beside it. A limit in ms may leave less.
- The time per MAC is that of the base network, which larger ones usually beat.
- With ``gpus_per_trial: auto`` as many trainings share a GPU as it takes for all of a stage to run
  at once, if the largest network allows so many, measured on one GPU as the search does it; and
  none is slowed by the others.
- The final trainings share their work evenly; measurements and starting workers are not counted.
- Networks that rivals of ``choose`` train to find their answer are not known before they ask.
"""

import heapq
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import ray

from cluster.costs import Costs
from cluster.dataset import facts_of, read_data
from cluster.hours import MaxHours, held
from cluster.network import BaseNetwork
from cluster.packing import measure_packing, share_of, size, spread
from cluster.tasks import result_of
from cluster.trainings import Trainings
from cluster.trials import trial_slots
from engine.errors import UserError
from engine.graph import NetworkGraph
from engine.limits import Usage
from engine.recipe import Recipe
from engine.rows import TrainingTask
from engine.scaling import scale_for_alpha
from engine.spec import NetworkSpec
from engine.store import RunStore
from engine.training import Training
from engine.uniform import widest_within
from trainables.data import ImageData
from trainables.device import device_for, use_cpus
from trainables.loop import NetworkTraining
from trainables.tensors import TensorData

_BATCHES = 4
_EPOCHS = 3
"""The first one warms up, the fastest of the others counts."""

_FLOAT_BYTES = 4

TRIAL_STAGES = ("alpha", "sample", "choose")
"""Those of many trainings; the others train one network over several workers."""

STAGES = ("baseline", *TRIAL_STAGES, "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The trainings of one stage.

    Attributes:
        macs: of each network, for one image.
        at_once: how many run at the same time.
        per_gpu: how many share a GPU, 0 where none is used.
        seconds: expected time of each training.
        elapsed_s: expected time of the stage.
        gpu_hours, cpu_hours: expected to be held by its trainings.
    """

    stage: str
    macs: tuple[int, ...]
    at_once: int
    per_gpu: int
    seconds: tuple[float, ...]
    elapsed_s: float
    gpu_hours: float
    cpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is expected to take.

    Attributes:
        seconds_per_gmac: measured, of one worker in training.
        packing_measured: whether the number of trainings that share a GPU was.
        store_bytes: of weights that stay and of checkpoints that come and go.
        data_bytes: of the data set, in the object store of every node.
        most: the same at the highest α and with uniform networks as large as all limits but that of
            latency allow; None where latency is not taken to grow as multiply-accumulates do.
    """

    stages: tuple[StagePlan, ...]
    seconds_per_gmac: float
    packing_measured: bool
    store_bytes: int
    data_bytes: int
    most: "Plan | None" = None

    @property
    def elapsed_s(self) -> float:
        """Expected time of all stages, one after the other."""
        return sum(stage.elapsed_s for stage in self.stages)

    def hours(self, kind: str) -> float:
        """Expected GPU-hours or CPU-hours."""
        return sum(getattr(stage, f"{kind}_hours") for stage in self.stages)

    def check(self, limit: MaxHours) -> None:
        """Checks the expectation against a ceiling.

        Raises:
            UserError: it is above.
        """
        expected = self.hours(limit.kind)
        if expected > limit.hours:
            raise UserError(
                f"the search is expected to take {expected:.3g} {limit.kind.upper()}-hours, and "
                f"{limit.option} is {limit.hours:g}; lower the epochs, alpha.trials or "
                "sample.networks, or raise the option"
            )


def make_plan(recipe: Recipe) -> Plan:
    """Plans a search on the Ray cluster that has been joined, after a calibration on one worker.

    Raises:
        UserError: the recipe and its data do not fit together.
    """
    planned = Planned(recipe)
    recipe.check_batches(len(planned.data.train))
    resources = recipe.cluster
    small = _calibration_data(planned.data, recipe.sample.training.batch_size)
    # Booked here and not by ``options``, so that a worker with a GPU ends and frees its memory.
    calibrate = ray.remote(
        max_retries=2, num_cpus=resources.cpus_per_trial, num_gpus=resources.gpu_share
    )(_calibrate)
    seconds = result_of(
        calibrate.remote(
            planned.calibration, ray.put(small), resources.cpus_per_trial, resources.gpu_share
        )
    )
    timed = work(planned.graph, planned.base, planned.calibration.training, small) / _EPOCHS
    per_mac = seconds / timed
    shares: dict[str, float] = {}
    if resources.gpus_per_trial == "auto":
        data = ray.put(planned.data)
        for stage in (name for name in TRIAL_STAGES if name in planned.trainings):
            largest = planned.largest(stage)
            shares[stage] = share_of(measure_packing(largest, data, resources.cpus_per_trial)[0])
    total = ray.cluster_resources()
    plan = planned.plan(per_mac, total, shares)
    if recipe.alpha.candidates == "compute" or not recipe.limits.latency_is_ratio:
        return plan
    larger = Planned(recipe, planned.data, free_latency=True)
    return replace(plan, most=larger.plan(per_mac, total, shares))


def work(graph: NetworkGraph, spec: NetworkSpec, training: Training, data: ImageData) -> float:
    """Returns the multiply-accumulates of a training; a backward pass costs two forward passes."""
    images = len(data.train) - len(data.train) % training.batch_size
    per_epoch = 3 * images + len(data.validation)
    return float(graph.cost(spec).macs) * training.epochs * per_epoch


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Returns when the last training ends if each goes to the first worker that is free."""
    ends = [0.0] * workers
    for length in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + length)
    return max(ends)


class Planned:
    """The networks and trainings of a recipe, as far as they are known or expected.

    Args:
        recipe: of the search.
        data: of the recipe, if it has been read.
        free_latency: whether the limit of latency is taken to limit nothing.
    """

    def __init__(
        self, recipe: Recipe, data: ImageData | None = None, free_latency: bool = False
    ) -> None:
        self.recipe, self._free_latency = recipe, free_latency
        self.data = data or read_data(recipe)
        facts = facts_of(self.data)
        base = BaseNetwork(recipe=recipe, facts=facts)
        self.network, self.graph, self.base = base, base.graph, base.spec
        self._tasks = Trainings(recipe=recipe, base=base, facts=facts)

    @cached_property
    def trainings(self) -> dict[str, tuple[list[NetworkSpec], Training]]:
        """The networks of every stage that trains, and how they are trained."""
        alpha, sample = self.recipe.alpha, self.recipe.sample
        asked = np.linspace(alpha.low, alpha.high, alpha.trials)
        candidates = [self._scaled(float(value)) for value in asked]
        middle = alpha.high if self._free_latency else (alpha.low + alpha.high) / 2
        expected = self._scaled(middle)
        sampled = self._tasks.sampled_specs(expected.resolution, sample.networks)
        training = sample.training
        if sample.source != "trained":
            task = self._tasks.sampling_task(sample.source, expected.resolution, sample.networks)
            # They take turns at the steps of one training: it costs what the middle one does.
            by_cost = sorted(sampled, key=lambda spec: self.graph.cost(spec).macs)
            sampled, training = [by_cost[len(by_cost) // 2]], task.training
        rivals = len(self.recipe.choose.rivals)
        tried = (rivals + 1) * self.recipe.choose.repeats
        return {
            "baseline": ([self.base], self.recipe.train),
            # One network that several α come to is trained once.
            "alpha": (list(dict.fromkeys(candidates)) * alpha.repeats, alpha.training),
            "sample": (sampled, training),
            **({"choose": ([expected] * tried, sample.training)} if rivals else {}),
            "train": ([expected], self.recipe.train),
        }

    @property
    def calibration(self) -> TrainingTask:
        """What is timed: the base network, trained as the sampled networks are."""
        training = self.recipe.sample.training.for_epochs(_EPOCHS)
        return replace(self._tasks.sample_task(self.base), training=training)

    def largest(self, stage: str) -> TrainingTask:
        """What takes most memory of a stage of trials; the search measures its like."""
        specs, training = self.trainings[stage]
        tasks = [
            replace(self.calibration, spec=spec, training=training, importance=stage == "sample")
            for spec in specs
        ]
        return max(tasks, key=size)

    def plan(self, per_mac: float, total: Mapping[str, float], shares: Mapping[str, float]) -> Plan:
        """Plans all stages.

        Args:
            per_mac: seconds of one worker for one multiply-accumulate.
            total: what Ray gives out of the whole cluster, by kind.
            shares: of a GPU for one training, of the stages it was measured for.
        """
        names = [name for name in STAGES if name in self.trainings]
        stages = tuple(self._stage(name, per_mac, total, shares.get(name)) for name in names)
        return Plan(
            stages=stages,
            seconds_per_gmac=per_mac * 1e9,
            packing_measured=bool(shares),
            store_bytes=self._store_bytes(max(stage.at_once for stage in stages)),
            data_bytes=sum(
                part.images.nbytes + part.labels.nbytes
                for part in (self.data.train, self.data.validation, self.data.test)
            ),
        )

    def _store_bytes(self, at_once: int) -> int:
        """Weights of the two final networks, and checkpoints (with momentum) of what runs."""

        def weights(spec: NetworkSpec) -> int:
            return self.graph.cost(spec).params * _FLOAT_BYTES

        finals = [*self.trainings["baseline"][0], *self.trainings["train"][0]]
        most = max(weights(spec) for specs, _ in self.trainings.values() for spec in specs)
        return sum(map(weights, finals)) + 2 * most * at_once

    def _stage(
        self, name: str, per_mac: float, total: Mapping[str, float], measured: float | None
    ) -> StagePlan:
        specs, training = self.trainings[name]
        resources = self.recipe.cluster
        final = name not in TRIAL_STAGES
        workers = resources.final_workers if final else 1
        share = resources.gpu_share if measured is None else measured
        of_search = self.recipe.alpha.batch * self.recipe.alpha.repeats
        together = min(len(specs), of_search) if name == "alpha" else len(specs)
        if measured is not None:
            share = share_of(spread(int(1 / measured), together, total.get("GPU", 0.0)))
        seconds = tuple(
            work(self.graph, spec, training, self.data) * per_mac / workers for spec in specs
        )
        at_once = 1 if final else min(trial_slots(resources, share, total), together)
        busy = sum(seconds) / 3600
        return StagePlan(
            stage=name,
            macs=tuple(self.graph.cost(spec).macs for spec in specs),
            at_once=at_once,
            per_gpu=int(1 / share) if 0 < share <= 1 and not final else int(resources.uses_gpus),
            seconds=seconds,
            elapsed_s=makespan(seconds, at_once),
            gpu_hours=busy * held(resources, "gpu", final, share),
            cpu_hours=busy * held(resources, "cpu", final),
        )

    def _scaled(self, alpha: float) -> NetworkSpec:
        settings = self.recipe.alpha
        if settings.candidates == "compute":
            return scale_for_alpha(self.graph, self.base, alpha, settings.budget, settings.round_to)
        most = self.network.affordable(self._fits)
        budget = self.network.budget(most)
        spec = scale_for_alpha(self.graph, self.base, alpha, budget, settings.round_to, most)
        formula = self.graph.formula(self.base.at(spec.resolution))
        return widest_within(formula, self.recipe.allocate.max_width, self._fits)

    def _fits(self, spec: NetworkSpec) -> bool:
        """Whether a network is expected to keep the limits.

        Latency is taken to grow as the multiply-accumulates do; one in ms, of a base network that
        was not measured, limits nothing.
        """
        return self._usage(spec).within(self._limit)

    @cached_property
    def _limit(self) -> Usage:
        return self.recipe.limits.resolve(self._usage(self.base))

    def _usage(self, spec: NetworkSpec) -> Usage:
        counts = self.recipe.limits.latency_is_ratio and not self._free_latency
        macs = self.graph.cost(spec).macs if counts else 0.0
        return Costs(recipe=self.recipe).usage(spec, latency_ms=macs)


def _calibration_data(data: ImageData, batch_size: int) -> ImageData:
    train = np.arange(min(len(data.train), _BATCHES * batch_size))
    validation = np.arange(min(len(data.validation), batch_size))
    return replace(data, train=data.train.take(train), validation=data.validation.take(validation))


def _calibrate(task: TrainingTask, data: ImageData, cpus: int, gpus: float) -> float:
    """Seconds of one epoch."""
    use_cpus(cpus)
    device = device_for(gpus)
    with tempfile.TemporaryDirectory() as folder:
        training = NetworkTraining(task, TensorData.on(data, device), RunStore(folder))
        epochs = [training.run_epoch() for _ in range(_EPOCHS)]
    return min(epoch.seconds for epoch in epochs[1:])
