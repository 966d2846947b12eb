"""The stages of a search. Each runs only if the run store does not know its output yet."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import ray

from cluster.final import run_final
from cluster.measuring import Measuring
from cluster.progress import Progress
from cluster.session import Session
from cluster.trials import TrialRunner
from engine.alpha import rank_candidates
from engine.bootstrap import FEWEST_SAMPLES, are_narrow, b_intervals
from engine.budgets import Budgets
from engine.closed_loop import best, close_loop
from engine.codec import digest
from engine.costs import NetworkCost
from engine.errors import UserError
from engine.graph import NetworkGraph, load_graph
from engine.hardware.contract import LatencyModel
from engine.hardware.models import load_latency
from engine.limits import Usage
from engine.measure import Measurement
from engine.memory import memory_bytes
from engine.predictors import fit_predictors
from engine.profiling import Profiling, read_profile
from engine.recipe import Recipe
from engine.results import (
    AllocateResult,
    AlphaResult,
    BaselineResult,
    DataFacts,
    FitResult,
    ImportanceSample,
    Latency,
    ProfileResult,
    SampleResult,
    Trained,
)
from engine.rows import Cheap, Row, TrainingTask
from engine.sampling import samples_of, sampling_task
from engine.scaling import feasible_resolutions, scale_for_alpha
from engine.spec import ModelRef, NetworkSpec
from engine.store import RunStore
from engine.trained_weights import has_weights
from searchers.alpha import AlphaSearcher
from searchers.widths import sampled_spec
from trainables.data import ImageData, load_data
from trainables.objective import make_objective

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search: its recipe, its store, and what the stages share."""

    recipe: Recipe
    store: RunStore
    session: Session
    progress: Progress

    @cached_property
    def facts(self) -> DataFacts:
        """What is known of the data set; it is read only when something is trained."""

        def run() -> DataFacts:
            data = self._load_data()
            return DataFacts(
                name=data.name,
                digest=data.digest,
                classes=data.classes,
                channels=data.channels,
                train_images=len(data.train),
                validation_images=len(data.validation),
                test_images=len(data.test),
                mean=data.mean,
                std=data.std,
            )

        return self.stage(
            "data",
            DataFacts,
            self.recipe.data,
            run,
            lambda out: (
                f"{out.name}: {out.train_images:,} images to train on, "
                f"{out.validation_images:,} to decide on, {out.test_images:,} for the end"
            ),
        )

    @cached_property
    def graph(self) -> NetworkGraph:
        """The network before scaling."""
        ref = ModelRef(
            name=self.recipe.model,
            classes=self.facts.classes or self.recipe.task.outputs,
            channels=self.facts.channels,
        )
        return load_graph(ref, self.recipe.data.resolution)

    @cached_property
    def base(self) -> NetworkSpec:
        """The base network."""
        return self.graph.spec(self.recipe.data.resolution, self.recipe.width)

    @property
    def timing(self) -> tuple[int, int]:
        """How single networks are measured."""
        return self.recipe.profile.calls, self.recipe.profile.rounds

    @cached_property
    def _resolutions(self) -> tuple[int, ...]:
        """All that the α search can come to."""
        alpha = self.recipe.alpha
        return feasible_resolutions(
            self.graph, self.base, alpha.low, alpha.high, alpha.budget, alpha.round_to
        )

    @cached_property
    def runner(self) -> TrialRunner:
        """Starts Ray and sends the data to it, on first use.

        Raises:
            UserError: the data set is not the one that the run began with.
        """
        data = self._load_data()
        if data.digest != self.facts.digest:
            raise UserError(
                f"{self.recipe.data.source} has changed since the run {self.store.location} "
                "began; give another --name to start a new one"
            )
        self._start_ray()
        return TrialRunner(
            store=self.store,
            data=ray.put(data),
            resources=self.recipe.cluster,
            progress=self.progress,
        )

    def check(self) -> None:
        """Checks of the recipe what can be known before anything is trained or measured.

        Raises:
            UserError: the data, the network, the task, the limits and the settings do not fit
                together.
        """
        self.recipe.check_batches(self.facts.train_images)
        make_objective(self.final_task(self.base))
        # Its latency is not known yet; any limit of it is above zero.
        self.recipe.limits.resolve(self.usage(self.base, latency_ms=0.0))
        _ = self._resolutions  # raises if the network cannot take one of them

    # Stages ----------------------------------------------------------------------------------

    def baseline(self) -> BaselineResult:
        """Measures the base network and trains it like the result."""
        task = self.final_task(self.base)

        def run() -> BaselineResult:
            cost = self.graph.cost(self.base)
            measured = self._measure_baseline()
            latency = measured.timings[0].latency
            # A limit that cannot be kept is told before the training.
            self.recipe.limits.resolve(self.usage(self.base, latency.ms))
            return BaselineResult(
                spec=self.base,
                macs=cost.macs,
                params=cost.params,
                memory_bytes=self.memory_bytes(self.base),
                latency=latency,
                key=measured.key,
                trained=self._train(task),
            )

        uses = (task, self.recipe.device, self.timing)
        return self.stage(
            "baseline",
            BaselineResult,
            uses,
            run,
            lambda out: (
                f"{out.params:,} parameters, {out.latency.ms:.3f} ms, "
                f"{out.trained.test_accuracy:.1%} on the test split"
            ),
        )

    def profile(self, baseline: BaselineResult) -> ProfileResult:
        """Fits the latency model of this device for this network."""
        profiling = self._profiling
        settings = self.recipe.profile

        def run() -> ProfileResult:
            if settings.file:
                known = read_profile(Path(settings.file), profiling)
                known.key.check(baseline.key, f"the profile {settings.file}")
                return known
            began = time.monotonic()
            measured = self._measured("profile", profiling.specs, per_layer=True)
            measured.key.check(baseline.key, "the device of the profile")
            return profiling.result(
                measured.relative_to(baseline.latency.ms), time.monotonic() - began
            )

        uses = (
            self.base,
            profiling.resolutions,
            self.recipe.device,
            settings,
            baseline.latency.ms,
        )
        return self.stage(
            "profile",
            ProfileResult,
            uses,
            run,
            lambda out: (
                f"latency model off by {out.quality.mape:.1%} on "
                f"{len(out.quality.measured_ms)} networks it has not seen"
            ),
        )

    def alpha(self, profile: ProfileResult, baseline: BaselineResult, limit: Usage) -> AlphaResult:
        """Searches α (Eq. 3, 4). Only its resolution is kept."""
        settings = self.recipe.alpha
        most = self._largest_affordable(self.latency_model(profile, baseline), limit)
        uses = (self.base, settings, self.recipe.task, self.facts.digest, self.recipe.seed, most)

        def candidate(alpha: float) -> NetworkSpec:
            return scale_for_alpha(
                self.graph, self.base, alpha, settings.budget, settings.round_to, most
            )

        def run() -> AlphaResult:
            runner = self.runner
            searcher = AlphaSearcher(
                settings=settings,
                seed=self.recipe.seed,
                journal=self.store.scratch / "studies" / f"{digest(uses)}.journal",
                candidate=candidate,
                tasks_of=self.alpha_tasks,
                finished=self.store.ledger.seen,
            )
            asha_epochs = settings.training.epochs if settings.scheduler == "asha" else None
            runner.run_search(
                "alpha",
                searcher,
                total=settings.trials * settings.repeats,
                asha_epochs=asha_epochs,
                largest=self.alpha_tasks(candidate(settings.high))[0],
            )
            if len(searcher.alphas) < settings.trials:
                raise KeyboardInterrupt  # stopped while no training ran
            rows = self.rows(
                task for a in searcher.alphas for task in self.alpha_tasks(candidate(a))
            )
            self._check_failures("alpha", rows)
            return rank_candidates(self.graph, self.base, searcher.alphas, candidate, rows)

        return self.stage(
            "alpha",
            AlphaResult,
            uses,
            run,
            lambda out: (
                f"α = {out.alpha:.2f}, resolution {out.resolution} px, "
                f"{len(out.candidates)} networks compared"
                + ("" if out.tied is None else f", {out.tied} as good within the noise")
            ),
        )

    def sample(self, resolution: int) -> SampleResult:
        """Trains networks of random widths and collects importance (Eq. 5).

        With ``sample.stop_at_b_ci`` block after block, until every exponent is known that well.
        With another ``sample.source`` than ``trained``, one task stands for all of them.
        """
        settings = self.recipe.sample
        tasks = self.sample_tasks(resolution)

        def run() -> SampleResult:
            if settings.source != "trained":
                return self._sample_at_once(tasks[0])
            step = settings.networks if settings.stop_at_b_ci is None else settings.block
            trained = step
            while True:
                sampled = self._sample(tasks[:trained])
                if trained >= settings.networks or self._knows_exponents(sampled):
                    return sampled
                trained += step

        return self.stage(
            "sample",
            SampleResult,
            (tasks, settings.stop_at_b_ci),
            run,
            lambda out: (
                f"{len(out.samples)} networks of random widths "
                + ("trained" if settings.source == "trained" else f"({settings.source})")
                + (
                    f", {settings.networks - out.networks} saved: every b is known to "
                    f"±{settings.stop_at_b_ci}"
                    if out.networks < settings.networks
                    else ""
                )
            ),
        )

    def _sample_at_once(self, task: TrainingTask) -> SampleResult:
        (row,) = self.trained("sample", [task])
        samples = samples_of(row)
        return SampleResult(samples=samples, failures=(), networks=len(samples))

    def _sample(self, tasks: Sequence[TrainingTask]) -> SampleResult:
        rows = self.trained("sample", tasks)
        index_of = {task.id: index for index, task in reversed(list(enumerate(tasks)))}
        return SampleResult(
            samples=tuple(
                _sample(index_of[row.task.id], row) for row in rows if row.status == "done"
            ),
            failures=tuple(row.error or "" for row in rows if row.status == "failed"),
            networks=len(tasks),
        )

    def _knows_exponents(self, sampled: SampleResult) -> bool:
        most = self.recipe.sample.stop_at_b_ci
        if most is None or len(sampled.samples) < FEWEST_SAMPLES:
            return False
        groups = [group.name for group in self.graph.groups]
        return are_narrow(b_intervals(sampled.samples, groups), most)

    def fit(self, sample: SampleResult) -> FitResult:
        """Fits importance against width for every group (Eq. 6)."""
        names = [group.name for group in self.graph.groups]
        return self.stage(
            "fit",
            FitResult,
            (sample, names),
            lambda: fit_predictors(sample.samples, names),
            lambda out: (
                f"R² {min(p.r2 for p in out.predictors.values()):.3f} at the least, "
                f"{sum(bool(p.flag) for p in out.predictors.values())} of "
                f"{len(out.predictors)} groups flagged"
            ),
        )

    def allocate(
        self,
        fit: FitResult,
        profile: ProfileResult,
        limit: Usage,
        resolution: int,
        baseline: BaselineResult,
    ) -> AllocateResult:
        """Allocates widths (Algorithm 1) with the device in the loop (`engine.closed_loop`)."""
        start = self.base.at(resolution)

        def run() -> AllocateResult:
            budgets = self.budgets(fit, profile, resolution, baseline)
            rounds = close_loop(
                lambda factor: budgets.allocate(limit, factor),
                lambda widths: self.measure_network(
                    "allocate", start.with_widths(widths), baseline
                ),
                limit.latency_ms,
                self.recipe.allocate.rounds,
            )
            chosen = best(rounds, limit.latency_ms)
            spec = start.with_widths(rounds[chosen].allocation.widths)
            cost = self.graph.cost(spec)
            return AllocateResult(
                spec=spec,
                macs=cost.macs,
                params=cost.params,
                memory_bytes=self.memory_bytes(spec),
                rounds=rounds,
                chosen=chosen,
            )

        uses = (
            fit,
            profile.model,
            limit,
            start,
            self.recipe.allocate,
            self.recipe.device,
            self.timing,
            baseline.latency.ms,
        )
        return self.stage(
            "allocate",
            AllocateResult,
            uses,
            run,
            lambda out: f"{out.allocation.stop_reason}; measured {out.latency.ms:.3f} ms",
        )

    def train(self, spec: NetworkSpec) -> Trained:
        """Trains the result over all workers; again if its weights have been lost."""
        task = self.final_task(spec)
        trained = self.stage(
            "train",
            Trained,
            task,
            lambda: self._train(task),
            lambda out: f"{out.test_accuracy:.1%} on the test split",
        )
        if not (self.store.read_only or has_weights(self.store.folder, trained.weights)):
            self.progress.begin("train")
            trained = self._train(task)
            self.progress.end("its weights were lost and are there again")
        return trained

    def measure(self, spec: NetworkSpec, baseline: BaselineResult) -> Latency:
        """Measures the result once more, apart from the measurements that chose it."""
        return self.stage(
            "measure",
            Latency,
            (spec, self.recipe.device, self.timing, baseline.latency.ms),
            lambda: self.measure_network("measure", spec, baseline),
            lambda out: f"{out.ms:.3f} ms",
        )

    # Help ------------------------------------------------------------------------------------

    def latency_model(self, profile: ProfileResult, baseline: BaselineResult) -> LatencyModel:
        """The profile's model, made right for the base network, where the truth is known."""
        model = load_latency(profile.model)
        # A hair below it, so that rounding never puts the base network over its own latency.
        predicted = model.predict(self.graph.cost(self.base)) * (1 + 1e-9)
        return model.rescaled(baseline.latency.ms / predicted)

    def budgets(
        self, fit: FitResult, profile: ProfileResult, resolution: int, baseline: BaselineResult
    ) -> Budgets:
        """All that Algorithm 1 needs, from the base widths at ``resolution``."""
        return Budgets(
            base=self.base,
            formula=self.graph.formula(self.base.at(resolution)),
            predictors=fit.predictors,
            model=self.latency_model(profile, baseline).to_json(),
            settings=self.recipe.allocate,
            baseline=baseline.usage,
            batch=self.recipe.device.batch,
        )

    def cost(self, spec: NetworkSpec) -> NetworkCost:
        """What a network costs, also one of another depth."""
        return self._graph_of(spec).cost(spec)

    def memory_bytes(self, spec: NetworkSpec) -> int:
        """Memory of a network on the device."""
        return memory_bytes(self._graph_of(spec).formula(spec), spec, self.recipe.device.batch)

    def usage(self, spec: NetworkSpec, latency_ms: float) -> Usage:
        """What a network of that latency uses."""
        return Usage(
            latency_ms=latency_ms,
            params=self.cost(spec).params,
            memory_bytes=self.memory_bytes(spec),
        )

    def _graph_of(self, spec: NetworkSpec) -> NetworkGraph:
        return load_graph(spec.model, self.recipe.data.resolution)

    def stage(
        self,
        name: str,
        kind: type[T],
        uses: object,
        run: Callable[[], T],
        summary: Callable[[T], str],
    ) -> T:
        self.progress.begin(name)
        if not self.store.is_committed(name, uses) and name in self.store.committed_stages():
            self.progress.say(f"  {name}: what it depends on has changed, so it is done again")
        output = self.store.stage(name, kind, uses, run)
        self.progress.end(summary(output))
        return output

    def final_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training of the base network, of the result and of what they are compared with."""
        return TrainingTask(
            spec=spec,
            training=self.recipe.train,
            data=self.facts.digest,
            seed=self.recipe.seed,
            loss=self.recipe.task.loss,
            metric=self.recipe.task.metric,
            sync_workers=True,
            test=True,
        )

    def alpha_tasks(self, spec: NetworkSpec) -> list[TrainingTask]:
        """The trainings of one network of the α search, one for each repeat."""
        settings = self.recipe.alpha
        return [
            replace(
                self.short_task(spec), training=settings.training, seed=self.recipe.seed + repeat
            )
            for repeat in range(settings.repeats)
        ]

    def sample_tasks(self, resolution: int) -> list[TrainingTask]:
        """The trainings of all networks that the recipe wants sampled, or the one for all."""
        settings = self.recipe.sample
        if settings.source != "trained":
            return [self.sampling_task(settings.source, resolution)]
        return [
            self.sample_task(spec) for spec in self.sampled_specs(resolution, settings.networks)
        ]

    def short_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training that the search spends on one network."""
        return replace(
            self.final_task(spec),
            training=self.recipe.sample.training,
            sync_workers=False,
            test=False,
        )

    def sampled_specs(self, resolution: int, networks: int) -> list[NetworkSpec]:
        """The first networks of random widths."""
        settings, base = self.recipe.sample, self.base.at(resolution)
        return [
            sampled_spec(self.graph, base, settings, self.recipe.seed, index)
            for index in range(networks)
        ]

    def sample_task(self, spec: NetworkSpec) -> TrainingTask:
        """The training of a sampled network that collects its importance."""
        return replace(self.short_task(spec), importance=True)

    def sampling_task(self, source: Cheap, resolution: int) -> TrainingTask:
        """The one task that finds the importance of all sampled networks."""
        specs = self.sampled_specs(resolution, self.recipe.sample.networks)
        return sampling_task(self.short_task(specs[0]), specs, source, self.facts.train_images)

    def trained(self, stage: str, tasks: Sequence[TrainingTask]) -> list[Row]:
        """Trains what has no row yet, and returns the rows of all, each once.

        Raises:
            UserError: more of them failed than the recipe allows.
            KeyboardInterrupt: stopped in order.
        """
        self.runner.run_tasks(stage, tasks)
        rows = self.rows(tasks)
        if len(rows) < len({task.id for task in tasks}):
            raise KeyboardInterrupt  # stopped while no training ran
        self._check_failures(stage, rows)
        return rows

    def _train(self, task: TrainingTask) -> Trained:
        runner = self.runner
        return run_final(task, self.store, runner.data, self.recipe.cluster, self.progress)

    def _load_data(self) -> ImageData:
        return load_data(self.recipe.data, any_targets=not self.recipe.task.is_classification)

    def _start_ray(self) -> None:
        """Starts or joins Ray.

        Raises:
            UserError: Ray has less than one training or measurement needs, and would wait forever.
        """
        self.session.start()
        self.session.require(self.recipe)

    @cached_property
    def _profiling(self) -> Profiling:
        return Profiling(
            graph=self.graph,
            base=self.base,
            resolutions=self._resolutions,
            settings=self.recipe.profile,
        )

    def _measured(
        self, purpose: str, specs: Sequence[NetworkSpec], *, per_layer: bool
    ) -> Measurement:
        measuring = Measuring(
            device=self.recipe.device,
            settings=self.recipe.profile,
            store=self.store,
            start_ray=self._start_ray,
        )
        return measuring(purpose, specs, self.base, per_layer=per_layer)

    def _measure_baseline(self) -> Measurement:
        """Measures the base network; elsewhere together with the profile, to save an exchange."""
        if self.recipe.device.place == "offline" and not self.recipe.profile.file:
            return self._measured("profile", self._profiling.specs, per_layer=True)
        return self._measured("baseline", [self.base], per_layer=False)

    def measure_network(self, purpose: str, spec: NetworkSpec, baseline: BaselineResult) -> Latency:
        """Measures a network, as a ratio to the base network of the same session.

        Raises:
            UserError: the device is not the one that the run began with.
        """
        return self.measure_networks(purpose, [spec], baseline)[0]

    def measure_networks(
        self, purpose: str, specs: Sequence[NetworkSpec], baseline: BaselineResult
    ) -> list[Latency]:
        """Measures networks in one session, else as `measure_network`."""
        measured = self._measured(purpose, specs, per_layer=False)
        measured.key.check(baseline.key, "the device that was measured now")
        return [timing.latency for timing in measured.relative_to(baseline.latency.ms).timings]

    def _largest_affordable(self, model: LatencyModel, limit: Usage) -> int:
        """The largest resolution at which the base widths keep the limits of latency and memory.

        The paper lets α choose any resolution; one that leaves no room for any width would end
        the search without a network.
        """
        affordable = [
            resolution
            for resolution in self._resolutions
            if self._fits(model, self.base.at(resolution), limit)
        ]
        return max(affordable, default=self.base.resolution)

    def _fits(self, model: LatencyModel, spec: NetworkSpec, limit: Usage) -> bool:
        return self.usage(spec, model.predict(self.cost(spec))).within(limit)

    def rows(self, tasks: Iterable[TrainingTask]) -> list[Row]:
        """Returns what the ledger has of some trainings, each once."""
        unique = {task.id: task for task in tasks}
        found = (self.store.ledger.find(task_id) for task_id in unique)
        return [row for row in found if row is not None]

    def _check_failures(self, stage: str, rows: Sequence[Row]) -> None:
        errors = [row.error for row in rows if row.status == "failed"]
        if len(errors) > self.recipe.cluster.max_failure_share * len(rows):
            raise UserError(
                f"{len(errors)} of {len(rows)} trainings of the {stage} stage failed, the first "
                f"with: {errors[0]}; mend the cause and repeat with --retry-failed"
            )


def _sample(index: int, row: Row) -> ImportanceSample:
    assert row.importance is not None
    return ImportanceSample(
        row=row.task.id,
        index=index,
        widths=row.task.spec.width_of,
        importance=row.importance,
        val_loss=row.last.val_loss,
        val_accuracy=row.last.val_accuracy,
    )
