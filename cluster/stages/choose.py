"""The choose stage: the best of several networks that keep the limits, by short trainings."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.parents import release_all
from cluster.search import Search
from cluster.stages.groundwork import Groundwork
from cluster.stages.propose import Proposing, inputs_of_question
from engine.budgets import ALGORITHM_1
from engine.comparison import Proposal
from engine.judging import most_repeats, pooled_spread, tied
from engine.peers.methods import rivals
from engine.results import AllocateResult, Candidate, ChooseResult, SurfaceFigures
from engine.rows import Row


def choose_stage(search: Search, known: Groundwork, found: AllocateResult) -> ChooseResult:
    """Trains the network of Algorithm 1 and those of its rivals for a while, and takes the best.

    The highest mean of the last validation accuracies counts, then the lower mean loss, then which
    comes first; a network of which a repeat failed comes after those with more. What exceeds the
    latency limit by more than the noise of its measurement is the answer only if all do whose
    trainings did not fail. A rival that has no network for these limits is left out.

    Deviation: HACScale takes what Algorithm 1 gives. Importance is of single channels, at one
    resolution, after a short training: whether the widths that it leads to are better than uniform
    ones is tested here and not assumed.
    """
    settings, trainings = search.recipe.choose, search.trainings
    methods = rivals(settings.rivals)

    def run() -> ChooseResult:
        proposing = Proposing(search, known)
        proposing.note_rounds(found)
        answers, left_out = proposing.answers(methods)
        candidates = [
            _of_algorithm_1(search, found),
            *(_candidate(search, proposing, answer) for answer in answers),
        ]
        release_all(search.store)
        search.progress.begin("choose")
        if len(candidates) == 1:
            return ChooseResult(candidates=tuple(candidates), chosen=0, left_out=left_out)
        trials = [trainings.choose_tasks(candidate.spec) for candidate in candidates]
        tasks = [task for of_one in trials for task in of_one]
        rows = {row.task.id: row for row in search.trainer.train("choose", tasks)}
        judged = tuple(
            _judged(candidate, [rows[task.id] for task in of_one if task.id in rows])
            for candidate, of_one in zip(candidates, trials, strict=True)
        )
        most, limit_ms = most_repeats(judged), known.limit.latency_ms
        merits = [merit(one, limit_ms, len(one.accuracies) == most) for one in judged]
        chosen = merits.index(max(merits))
        return ChooseResult(
            candidates=judged,
            chosen=chosen,
            left_out=left_out,
            surface=_figures(proposing),
            tied=_tied(judged, chosen, limit_ms),
        )

    tasks = trainings.choose_tasks(found.spec)
    uses = (settings, methods, found, tasks, *inputs_of_question(search, known))
    return search.stage("choose", ChooseResult, uses, run, _sentence)


def _of_algorithm_1(search: Search, found: AllocateResult) -> Candidate:
    return Candidate(
        method=ALGORITHM_1,
        spec=found.spec,
        macs=found.macs,
        params=found.params,
        memory_bytes=found.memory_bytes,
        predicted_ms=found.rounds[found.chosen].predicted_ms,
        latency=found.latency,
        rounds=len(found.rounds),
    )


def _tied(judged: Sequence[Candidate], chosen: int, limit_ms: float) -> int | None:
    """How many other networks are as good; candidates may be one network, of two methods."""
    accuracies = {one.spec: one.accuracies for one in judged}
    spread, winner = pooled_spread(accuracies.values()), judged[chosen]
    if spread is None or not winner.accuracies:
        return None
    alike = {one.spec for one in judged if _keeps(one, limit_ms) == _keeps(winner, limit_ms)}
    others = [accuracies[spec] for spec in alike - {winner.spec}]
    return tied(winner.accuracies, others, spread)


def _keeps(candidate: Candidate, limit_ms: float) -> bool:
    return candidate.latency.verdict(limit_ms) != "over"


def _figures(proposing: Proposing) -> SurfaceFigures | None:
    surface = proposing.surface()
    if surface is None:
        return None
    losses = len(proposing.observations())
    return SurfaceFigures(r2=surface.r2, rmse=surface.rmse, losses=losses)


def _candidate(search: Search, proposing: Proposing, proposal: Proposal) -> Candidate:
    predicted_ms = proposing.predicted_ms(proposal.spec)
    return Candidate(
        method=proposal.method,
        spec=proposal.spec,
        macs=proposal.macs,
        params=proposal.params,
        memory_bytes=search.costs.memory_bytes(proposal.spec),
        predicted_ms=proposal.latency.ms if predicted_ms is None else predicted_ms,
        latency=proposal.latency,
        rounds=proposal.rounds,
        trained=proposal.trained,
    )


def _judged(candidate: Candidate, rows: list[Row]) -> Candidate:
    done = [row for row in rows if row.status == "done"]
    return replace(
        candidate,
        accuracies=tuple(row.last.val_accuracy for row in done),
        losses=tuple(row.last.val_loss for row in done),
        trained=(*candidate.trained, *(row.task.id for row in rows)),
    )


def merit(candidate: Candidate, limit_ms: float, complete: bool) -> tuple[bool | float, ...]:
    """What candidates are compared by, the better the greater; see `choose_stage`."""
    any_done, *accuracy_and_loss = candidate.merit
    return any_done, _keeps(candidate, limit_ms), complete, *accuracy_and_loss


def _sentence(out: ChooseResult) -> str:
    winner = out.winner
    if not winner.accuracies:
        return f"{winner.method}, which has no rival"
    others = ", ".join(
        f"{one.method} {one.accuracy:.1%}"
        for one in out.candidates
        if one is not winner and one.accuracies
    )
    tied = "" if out.tied is None else f", {out.tied} as good within the noise"
    return f"{winner.method}, {winner.accuracy:.1%} on the validation split ({others}){tied}"
