"""The propose stages: what methods of scaling make of the network of a run, measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cluster.parents import release
from cluster.search import Search
from cluster.stages.allocate import budgets_of
from cluster.stages.groundwork import Groundwork
from cluster.stages.profile import latency_model, stepped_graph
from engine.closed_loop import between, corrected_limit, is_full, miss, share_used
from engine.codec import decode, digest, pretty
from engine.comparison import BASE, OURS, Proposal
from engine.errors import Inapplicable, StorageError, UserError
from engine.limits import Usage
from engine.peers.contract import BOTH, Method, Question, Resource, Trainings
from engine.response import Observation, ResponseSurface
from engine.response_fit import FEWEST, fit_response, networks_of
from engine.results import AllocateResult, ChooseResult, Latency
from engine.rows import Row, TrainingTask
from engine.spec import NetworkSpec

Train = Callable[[Sequence[TrainingTask]], list[Row]]
Free = Callable[[Sequence[Row]], None]


def inputs_of_question(search: Search, known: Groundwork) -> tuple[object, ...]:
    """Returns all that the answer of a method depends on, but for the method."""
    recipe = search.recipe
    return (
        known.limit,
        known.alpha,
        known.fit,
        known.sample,
        known.profile.model,
        known.baseline.latency.ms,
        search.base.spec,
        recipe.seed,
        recipe.allocate,
        recipe.alpha.round_to,
        recipe.alpha.budget,
        recipe.profile.min_width,
        recipe.sample.training,
        recipe.device,
        search.measuring.repeats,
    )


class Proposing:
    """Asks methods of scaling what they make of the network of a run."""

    def __init__(self, search: Search, known: Groundwork) -> None:
        self._search = search
        self._known = known
        self._model = latency_model(search, known.profile, known.baseline)
        self._folder = search.store.folder / "measured"
        self._predicted: dict[NetworkSpec, float | None] = {}
        self._measured: dict[NetworkSpec, Latency] = {known.baseline.spec: known.baseline.latency}
        trainings, rows = search.trainings, search.trainer.rows
        self._trained: dict[str, Row] = {}
        # What other methods have trained, here or in a comparison before, is not among them.
        self._rows: dict[Trainings, list[Row]] = {
            "alpha": rows(
                task for c in known.alpha.candidates for task in trainings.alpha_tasks(c.spec)
            ),
            "samples": rows(
                trainings.sample_tasks(known.alpha.resolution)[: known.sample.networks]
            ),
        }

    def all(
        self, found: AllocateResult, answer: ChooseResult, methods: Sequence[Method]
    ) -> tuple[list[Proposal], dict[str, str]]:
        """Returns the base network, the run's answer and what the methods answer.

        A method that does not apply to the network is left out, with its reason by its name.
        """
        search, known, winner = self._search, self._known, answer.winner
        self.note_rounds(found)
        for candidate in answer.candidates:
            self.note(candidate.spec, candidate.latency)
        ids = [task for candidate in answer.candidates for task in candidate.trained]
        rows = [row for row in map(search.store.ledger.find, ids) if row is not None]
        proposals = [
            self._proposal(BASE, known.baseline.spec, known.baseline.latency, 1),
            self._proposal(
                OURS,
                winner.spec,
                winner.latency,
                winner.rounds,
                rests_on=("alpha", "samples"),
                trained=rows,
            ),
        ]
        answers, refusals = self.answers(methods)
        return [*proposals, *answers], refusals

    def answers(self, methods: Sequence[Method]) -> tuple[list[Proposal], dict[str, str]]:
        """Asks all methods, trains and measures at once what they lack for an answer, asks again.

        Some train one network after another, others many at a time: together they keep a cluster
        busy. A session of measurements mostly waits, and takes many networks as fast as one. Equal
        questions have equal answers, and the ledger has what was trained before, so a method that
        is asked from the beginning comes to where it stopped.

        Returns:
            What they answer, in their order, and by the names of those that have no network for
            these limits the reason.
        """
        search = self._search
        answers: dict[str, Proposal] = {}
        refusals: dict[str, str] = {}
        waiting, again = list(methods), False
        while waiting:
            lacking: dict[str, Sequence[TrainingTask]] = {}
            unmeasured: dict[str, _Unmeasured] = {}
            spent: dict[str, Row] = {}

            def free(rows: Sequence[Row], spent: dict[str, Row] = spent) -> None:
                spent.update({row.task.id: row for row in rows})

            for method in waiting:
                try:
                    answers[method.name] = self._asked(method, free, again)
                except _Lacking as lack:
                    lacking[method.name] = lack.tasks
                except _Unmeasured as lack:
                    unmeasured[method.name] = lack
                except Inapplicable as error:
                    refusals[method.name] = str(error)
                    search.progress.end(f"left out: {error}")
            together = {task.id: task for of_one in lacking.values() for task in of_one}
            starts = {task.start.row for task in together.values() if task.start is not None}
            release(search.store, [row for row in spent.values() if row.task.id not in starts])
            if together:
                search.trainer.train_any("propose", list(together.values()))
                search.progress.end(f"trained what {', '.join(lacking)} asked for")
            elif unmeasured:  # later else: a device elsewhere is then asked the same after a stop
                search.progress.begin("propose")
                self._measure({lack.spec: lack.expected_ms for lack in unmeasured.values()})
                search.progress.end(f"measured what {', '.join(unmeasured)} asked for")
            waiting = [one for one in waiting if one.name in lacking or one.name in unmeasured]
            again = True
        return [answers[m.name] for m in methods if m.name in answers], refusals

    def _asked(self, method: Method, free: Free, again: bool) -> Proposal:
        """Returns what a method answers; what the run knows of it is not asked again.

        Args:
            free: of the `Question`.
            again: it lacked something before. Most do once more, which is not told each time.
        """
        search, stage = self._search, f"propose-{method.name}"
        answer: Proposal | None = None
        if again:
            try:
                answer = self._answered(method, free)
            except Inapplicable:
                search.progress.begin(stage)
                raise
        proposal = search.stage(
            stage,
            Proposal,
            (method, *inputs_of_question(search, self._known)),
            lambda: answer or self._answered(method, free),
            lambda out: f"{out.params:,} parameters, {out.latency.ms:.3f} ms",
        )
        self.note(proposal.spec, proposal.latency)
        return proposal

    def _known_rows(self, tasks: Sequence[TrainingTask]) -> list[Row]:
        """Returns the rows of trainings.

        Raises:
            _Lacking: some have none.
        """
        unknown = [task for task in tasks if task.id not in self._trained]
        self._trained |= {row.task.id: row for row in self._search.trainer.rows(unknown)}
        if lacking := [task for task in unknown if task.id not in self._trained]:
            raise _Lacking(lacking)
        return [self._trained[task_id] for task_id in dict.fromkeys(task.id for task in tasks)]

    def _answered(self, method: Method, free: Free) -> Proposal:
        """Asks a method, and again with a limit that is corrected by what its answer measured.

        The best of the networks measured is taken, as `engine.closed_loop.miss` orders them. A
        method that need not keep the latency limit is asked once.

        Raises:
            Inapplicable: the method has no network for these limits.
            _Lacking, _Unmeasured: it cannot go on yet.
        """
        known = self._known
        limit, limit_ms = known.limit, known.limit.latency_ms
        seen, tried = list[tuple[NetworkSpec, Latency]](), list[tuple[float, float]]()
        trained: dict[str, Row] = {}

        def noted(tasks: Sequence[TrainingTask]) -> list[Row]:
            rows = self._known_rows(tasks)
            trained.update({row.task.id: row for row in rows})
            return [row for row in rows if row.status == "done"]

        rounds = self._search.recipe.allocate.rounds  # as for Algorithm 1
        for _ in range(rounds if "latency" in method.limits else 1):
            try:
                spec = _answer(method, self._question(limit, noted, free))
            except Inapplicable:
                if not seen:
                    raise
                break  # the corrected limit leaves no network: what was measured stands
            if any(spec == earlier for earlier, _ in seen):
                break
            latency = self._latency(spec, limit.latency_ms)
            seen.append((spec, latency))
            if is_full(latency, limit_ms):
                break
            expected = self.predicted_ms(spec)
            if expected is None:
                break  # nothing is wrong with a model: it was chosen as measured
            tried.append((share_used(latency, limit_ms), limit_ms / limit.latency_ms))
            factor = between(tried) or limit_ms / corrected_limit(expected, latency, limit_ms)
            limit = replace(limit, latency_ms=limit_ms / factor)
        spec, latency = min(seen, key=lambda one: miss(one[1], limit_ms))
        return self._proposal(
            method.name,
            spec,
            latency,
            len(seen),
            limits=method.limits,
            rests_on=method.rests_on,
            trained=list(trained.values()),
        )

    def note_rounds(self, found: AllocateResult) -> None:
        """Takes what the networks of an allocation's rounds measured; see `note`."""
        for done in found.rounds:
            self.note(found.spec.with_widths(done.allocation.widths), done.latency)

    def note(self, spec: NetworkSpec, latency: Latency) -> None:
        """Takes what a network measured before, so that no method has it measured again."""
        self._measured.setdefault(spec, latency)

    def _question(self, limit: Usage, train: Train, free: Free) -> Question:
        search, known = self._search, self._known
        return Question(
            graph=stepped_graph(search, self._model),
            base=search.base.spec,
            limit=limit,
            stated_limit=known.limit,
            usage=self._usage,
            budgets=lambda resolution: budgets_of(search, known, resolution),
            observations=self.observations(),
            short=search.trainings.short_task,
            sampling=lambda source: search.trainings.sampling_task(
                source, known.alpha.resolution, known.sample.networks
            ),
            train=train,
            release=free,
            resolution=known.alpha.resolution,
            resolutions=sorted({search.base.spec.resolution, *search.base.resolutions}),
            round_to=search.recipe.alpha.round_to,
            budget=search.recipe.alpha.budget,
            min_width=search.recipe.profile.min_width,
            max_width=search.recipe.allocate.max_width,
            seed=search.recipe.seed,
        )

    def predicted_ms(self, spec: NetworkSpec) -> float | None:
        """Latency by the model of the run, None where that does not hold."""
        if spec not in self._predicted:
            try:
                self._model.check(spec)
            except UserError:
                self._predicted[spec] = None
            else:
                self._predicted[spec] = self._model.predict(self._search.costs.of(spec))
        return self._predicted[spec]

    def _usage(self, spec: NetworkSpec, limit_ms: float) -> Usage:
        """Predicted where the latency model holds, measured elsewhere.

        Args:
            limit_ms: that the method is told. It corrects the model: of what was measured it leaves
                the same share, with room for noise, as the limit of the run would.
        """
        ms = self.predicted_ms(spec)
        if ms is None:
            measured = self._latency(spec, limit_ms)
            ms = share_used(measured, self._known.limit.latency_ms) * limit_ms
        return self._search.costs.usage(spec, ms)

    def _latency(self, spec: NetworkSpec, limit_ms: float) -> Latency:
        """Returns what a network measured, once for all methods that come to it.

        Two sessions differ by noise: it would keep the limit for one method and not for another.

        Args:
            limit_ms: that the method is told, which says how far off the model is; see `_usage`.

        Raises:
            _Unmeasured: it has not been measured.
        """
        if spec not in self._measured and (known := self._kept(spec)) is not None:
            self._measured[spec] = known
        if spec not in self._measured:
            expected_ms = self._expected_ms(spec, self._known.limit.latency_ms / limit_ms)
            raise _Unmeasured(spec, expected_ms)
        return self._measured[spec]

    def _measure(self, expected_ms: Mapping[NetworkSpec, float | None]) -> None:
        measuring, baseline = self._search.measuring, self._known.baseline
        found = measuring.steadily("compare", expected_ms, baseline)
        for spec, latency in found.items():
            self._folder.write(self._file(spec), pretty(latency))
        self._measured |= found

    def _kept(self, spec: NetworkSpec) -> Latency | None:
        """Returns what a network measured before the run was interrupted.

        What is asked again then is less: a method that was answered does not come again, and with
        fewer networks a device elsewhere would be asked another question.
        """
        file = self._file(spec)
        if (data := self._folder.read(file)) is None:
            return None
        try:
            return decode(Latency, data, self._folder.path(file))
        except UserError as error:
            self._folder.set_aside(str(error), file)
            return None

    def _file(self, spec: NetworkSpec) -> str:
        baseline, search = self._known.baseline, self._search
        uses = (spec, search.recipe.device, search.measuring.repeats, baseline.latency.ms)
        return f"{digest(uses)}.json"

    def _expected_ms(self, spec: NetworkSpec, slower: float) -> float | None:
        """Latency by the model, outside of its box too; None where it has an op that is unknown."""
        try:
            return slower * self._model.predict(self._search.costs.of(spec))
        except UserError:
            return None

    def surface(self) -> ResponseSurface | None:
        """Fits the response surface of the search; None where it has too few networks."""
        seen, base = self.observations(), self._search.base.spec
        if networks_of(seen) < FEWEST:
            return None
        return fit_response(seen, base.width_of, base.resolution, self._known.fit.predictors)

    def observations(self) -> list[Observation]:
        """Returns the sampled networks, and those of the α search where they were trained alike."""
        recipe = self._search.recipe
        rows = [row for row in self._rows["samples"] if row.task.sampling is None]
        if recipe.alpha.training == recipe.sample.training:
            rows += self._rows["alpha"]
        return [
            Observation(
                resolution=row.task.spec.resolution,
                widths=row.task.spec.width_of,
                loss=row.last.val_loss,
            )
            for row in rows
            if row.status == "done"
        ]

    def _proposal(
        self,
        method: str,
        spec: NetworkSpec,
        latency: Latency,
        rounds: int,
        *,
        limits: tuple[Resource, ...] = BOTH,
        rests_on: Sequence[Trainings] = (),
        trained: Sequence[Row] = (),
    ) -> Proposal:
        known = {row.task.id: row for kind in rests_on for row in self._rows[kind]}
        rows = (known | {row.task.id: row for row in trained}).values()
        usage = self._search.costs.usage(spec, latency.ms)
        return Proposal(
            method=method,
            spec=spec,
            macs=self._search.costs.of(spec).macs,
            params=usage.params,
            latency=latency,
            limits=limits,
            rounds=rounds,
            search_seconds=sum(epoch.seconds for row in rows for epoch in row.history),
            search_trials=len(rows),
            trained=tuple(row.task.id for row in trained),
        )


class _Lacking(Exception):
    """Carries what has to be trained before a method can go on, through the method."""

    def __init__(self, tasks: Sequence[TrainingTask]) -> None:
        super().__init__()
        self.tasks = tasks


class _Unmeasured(Exception):
    """Carries a network that has to be measured before a method can go on, through the method."""

    def __init__(self, spec: NetworkSpec, expected_ms: float | None) -> None:
        super().__init__()
        self.spec = spec
        self.expected_ms = expected_ms


def _answer(method: Method, question: Question) -> NetworkSpec:
    """Returns what a method answers.

    Raises:
        Inapplicable: it has no network for these limits.
        StorageError: the store fails, which is no fault of the method.
    """
    try:
        return method.propose(question)
    except StorageError:
        raise
    except UserError as error:
        raise Inapplicable(str(error)) from error
