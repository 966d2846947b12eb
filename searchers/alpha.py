"""Which α to try next: Optuna over a durable journal, as a search algorithm of Ray Tune."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from cmaes import CMA
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from engine.alpha import mean_accuracy
from engine.codec import digest, jsonable
from engine.local_folder import storage_error
from engine.recipe import Alpha
from engine.rows import NO_MEMORY, Row, TrainingTask
from engine.spec import NetworkSpec

logger = logging.getLogger(__name__)

_FIRST = 4
_STATES = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL)


class AlphaSearcher(Searcher):
    """Asks α in batches and suggests the trainings that judge them (Eq. 4 of HACScale).

    What is asked depends on ``settings``, ``seed`` and the rows of the ledger alone: neither on
    the number of workers, nor on the order in which they finish, nor on interruptions. For that,
    a batch is told, in trial order, when all its rows are there, then the next is asked, and
    every question draws from its own seed. (Asynchronous early stopping is the exception: which
    trainings it stops depends on when they report.)

    The first max(4, batch) α, rounded up to whole batches, are evenly spaced over [low, high]
    with both ends; ``random``, the control, does without. Rounded resolutions leave a search
    over 3 to 12 networks, with noise of the size of the signal. Over 250 simulated searches of 8
    or 12 trials this start found all of 3 networks in every case and lost least or nearly least
    accuracy; without it TPE still draws at random when the search is over (its own default
    start is 10 trials). ``gp`` lost least of all when noise was large, since it averages over
    neighbouring α.

    Two α that come to the same network are trained once and told the same value. A task is
    suggested when ``finished`` has no row for it and this searcher has not suggested it before,
    so that a rebuilt searcher suggests what its predecessor left unfinished and nothing else.

    The journal belongs to one recipe, model and data set. It repeats what the ledger implies, so
    one that is damaged or disagrees with the ledger is set aside under a new name, with a
    warning, and asked again: the same α come out, and rows in the ledger are not trained again.

    Use it with ``TuneConfig(num_samples=-1, max_concurrent_trials=slots)``. Without the latter
    Tune keeps one trial pending at a time and, with ``reuse_actors``, gives every next one to
    the actor that is free: nothing runs side by side. That a batch is in flight the searcher
    says itself, by suggesting None.

    Args:
        settings: of the search.
        seed: of the search.
        journal: file of the Optuna study; parents are made.
        candidate: α to the network that it comes to; pure.
        tasks_of: the repeats of a network; pure.
        finished: the row of a task id in the ledger, None if there is none yet. Called often,
            so it should be quick. A training that ended must be known to it before Tune's next
            step, with a failed row if it ended in an error.
    """

    def __init__(
        self,
        *,
        settings: Alpha,
        seed: int,
        journal: Path,
        candidate: Callable[[float], NetworkSpec],
        tasks_of: Callable[[NetworkSpec], Sequence[TrainingTask]],
        finished: Callable[[str], Row | None],
    ) -> None:
        super().__init__()
        self._settings = settings
        self._seed = seed
        self._journal = journal
        self._candidate = candidate
        self._tasks_of = tasks_of
        self._finished = finished
        self._networks: dict[float, NetworkSpec] = {}
        self._open()

    # Tune's side -----------------------------------------------------------------------------

    def suggest(  # pyright: ignore[reportIncompatibleMethodOverride] - Tune's hint forgets FINISHED
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Returns the next training as ``{"task": JSON of a TrainingTask}``.

        None while the batch is in flight, ``Searcher.FINISHED`` at the end. Asking again with
        the same ``trial_id`` gives the same answer.

        Raises:
            RuntimeError: a training that was suggested has ended and left no row.
            StorageError: the journal cannot be written.
        """
        if trial_id not in self._live:
            try:
                missing = self._missing()
            except OSError as error:
                raise storage_error(error, self._journal) from error
            if not missing:
                return Searcher.FINISHED
            task = next((task for id, task in missing.items() if id not in self._suggested), None)
            if task is None and missing.keys() <= self._postponed:
                return Searcher.FINISHED
            if task is None:
                self._check_in_flight(missing)
                return None
            self._suggested.add(task.id)
            self._live[trial_id] = task
        return {"task": jsonable(self._live[trial_id])}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes that a trial is over; what came of it is read from the ledger. Idempotent.

        A training that ran out of memory, or whose worker was lost, has no row; when only such are
        missing the searcher is at its end, and after ``restore`` it suggests them again.
        """
        task = self._live.pop(trial_id, None)
        if task is not None and (error or (result or {}).get("status") == NO_MEMORY):
            self._postponed.add(task.id)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tells Tune's limiter that it need not limit: the searcher says None by itself."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: the journal and the ledger hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Opens the journal again, as a new searcher would."""
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        # Tuner pickles its whole configuration on disk; nothing of it is ever read back.
        return {}

    # The search ------------------------------------------------------------------------------

    @property
    def alphas(self) -> tuple[float, ...]:
        """α of every trial that was told, in trial order."""
        trials = self._study.get_trials(deepcopy=False)
        return tuple(_alpha_of(trial) for trial in trials if trial.state.is_finished())

    @property
    def known(self) -> int:
        """Rows that are there of the α asked so far."""
        asked = self._study.get_trials(deepcopy=False)
        ids = {task.id for trial in asked for task in self._tasks_of(self._network(trial))}
        return sum(self._finished(task_id) is not None for task_id in ids)

    def _missing(self) -> dict[str, TrainingTask]:
        """Tasks without a row by id, of the open batch; empty when all trials have been told."""
        batch, last = self._settings.batch, self._settings.trials
        while True:
            trials = self._study.get_trials(deepcopy=False)
            told = sum(trial.state.is_finished() for trial in trials)
            if told == last:
                return {}
            start = told // batch * batch
            stop = min(start + batch, last)
            for number in range(len(trials), stop):
                self._ask(number)
            opened = self._study.get_trials(deepcopy=False)[start:stop]
            tasks = [task for trial in opened for task in self._tasks_of(self._network(trial))]
            missing = {task.id: task for task in tasks if self._finished(task.id) is None}
            if missing:
                return missing
            for trial in opened[told - start :]:
                value = self._value(trial)
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self._study.tell(trial.number, value, state=state)

    def _ask(self, number: int) -> None:
        settings = self._settings
        space: dict[str, BaseDistribution] = {
            "alpha": FloatDistribution(settings.low, settings.high)
        }
        first = _first_alphas(settings)
        if number < len(first):
            trial = create_trial(
                state=TrialState.RUNNING, params={"alpha": first[number]}, distributions=space
            )
            self._study.add_trial(trial)
        else:
            self._study.sampler = _sampler(settings, self._seed, number)
            self._study.ask(space)

    def _network(self, trial: FrozenTrial) -> NetworkSpec:
        alpha = _alpha_of(trial)
        if alpha not in self._networks:
            self._networks[alpha] = self._candidate(alpha)
        return self._networks[alpha]

    def _value(self, trial: FrozenTrial) -> float | None:
        found = [self._finished(task.id) for task in self._tasks_of(self._network(trial))]
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            raise ValueError(f"the ledger lacks a row of trial {trial.number}")
        return mean_accuracy(rows)

    def _check_in_flight(self, missing: dict[str, TrainingTask]) -> None:
        in_flight = {task.id for task in self._live.values()}
        lost = sorted(missing.keys() - in_flight)
        if len(lost) == len(missing):
            raise RuntimeError(
                f"the trials of training {', '.join(lost)} ended and left no row in the ledger, "
                "neither finished nor failed"
            )

    # The journal -----------------------------------------------------------------------------

    def _open(self) -> None:
        self._live: dict[str, TrainingTask] = {}
        self._suggested: set[str] = set()
        self._postponed: set[str] = set()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            self._study = self._load()
            self._check_study()
        except OSError as error:
            raise storage_error(error, self._journal) from error
        except Exception as error:  # Optuna replays garbage into errors of every kind
            aside = _unused(self._journal)
            self._journal.replace(aside)
            logger.warning(
                "the journal of the α search %s is damaged or does not fit the ledger "
                "(%s: %s); it is kept as %s, and the search is rebuilt from the ledger",
                *(self._journal, type(error).__name__, error, aside.name),
            )
            self._study = self._load()

    def _load(self) -> optuna.Study:
        path = self._journal
        # Optuna reads past a damaged last line, appends to it, and then cannot read it again.
        if path.exists() and (data := path.read_bytes()):
            if not data.endswith(b"\n"):
                raise ValueError("its last line is torn")
            json.loads(data.splitlines()[-1])
        # Links cannot be made on every file system, as Optuna's own lock would.
        storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        return optuna.create_study(
            storage=storage,
            sampler=RandomSampler(0),
            study_name=f"alpha-{digest((self._settings, self._seed))}",
            direction="maximize",
            load_if_exists=True,
        )

    def _check_study(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        told = sum(trial.state.is_finished() for trial in trials)
        if len(trials) > self._settings.trials:
            raise ValueError(f"{len(trials)} trials of {self._settings.trials}")
        for trial in trials:
            if trial.state not in _STATES or trial.state.is_finished() != (trial.number < told):
                raise ValueError(f"trial {trial.number} is out of turn")
            if not self._settings.low <= _alpha_of(trial) <= self._settings.high:
                raise ValueError(f"the α of trial {trial.number} is out of bounds")
            if trial.state.is_finished() and trial.value != self._value(trial):
                raise ValueError(f"the value of trial {trial.number} is not the ledger's")


def _alpha_of(trial: FrozenTrial) -> float:
    if "alpha" not in trial.params:
        raise ValueError(f"trial {trial.number} has no α")
    return trial.params["alpha"]


def _unused(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _first_alphas(settings: Alpha) -> list[float]:
    if settings.sampler == "random":
        return []
    count = min(math.ceil(_FIRST / settings.batch) * settings.batch, settings.trials)
    if count == 1:
        return [(settings.low + settings.high) / 2]
    return np.linspace(settings.low, settings.high, count).tolist()


def _sampler(settings: Alpha, seed: int, number: int) -> BaseSampler:
    """A fresh sampler for one question, so that no state but the study's decides the answer.

    TPE and GP see the trials of the batch that are running, and keep away from them.
    """
    drawn = int(digest(("alpha", seed, number)), 16) % 2**32
    match settings.sampler:
        case "tpe":
            return TPESampler(seed=drawn, n_startup_trials=2)
        case "gp":
            return GPSampler(seed=drawn, n_startup_trials=2)
        case "cmaes":
            return _ReplayedCma(drawn, math.ceil(_FIRST / settings.batch) * settings.batch)
        case "random":
            return RandomSampler(drawn)


class _ReplayedCma(BaseSampler):
    """CMA-ES on one parameter, rebuilt for every question from the values of past trials.

    Optuna's own keeps the optimiser as a pickle in the journal, and executes what it finds there.
    """

    def __init__(self, seed: int, population: int) -> None:
        self._seed = seed
        self._population = population

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> float:
        assert isinstance(param_distribution, FloatDistribution)
        low, high = param_distribution.low, param_distribution.high
        cma = CMA(
            mean=np.array([(low + high) / 2]),
            sigma=(high - low) / 4,
            bounds=np.array([[low, high]]),
            seed=self._seed,
            population_size=self._population,
        )
        told = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        for end in range(self._population, len(told) + 1, self._population):
            generation = told[end - self._population : end]
            cma.tell([(np.array([t.params[param_name]]), _loss(t)) for t in generation])
        return float(np.clip(cma.ask()[0], low, high))


def _loss(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else -trial.value
