"""What a comparison says, in sentences: the verdict, and what its table needs to be read."""

from statistics import median

from engine.comparison import OURS, Comparison, least_visible, lines
from engine.display import count, milliseconds, percent, plural
from engine.nearness import nearness
from engine.results import MOST_NOISE
from engine.spec import NetworkSpec

_NAMED = 4
"""So many methods are named one by one in a sentence."""


def verdict(comparison: Comparison) -> str:
    """Returns what the comparison says of the run's own result, in one sentence.

    Methods are named while there are few of them; the table has all.
    """
    ours = comparison.entry(OURS)
    if ours.mean is None:
        return f"{OURS} has no trained network to compare"
    found = lines(comparison)
    said = [
        f"{word} {', '.join(names) if len(names) <= _NAMED else plural(len(names), 'method')}"
        for word, outcome in (("better than", "worse"), ("tied with", "tie"), ("behind", "better"))
        if (names := [line.method for line in found if line.verdict == outcome])
    ]
    return f"{OURS} reaches {percent(ours.mean)}: {'; '.join(said) or 'nothing beside it'}"


def notes(comparison: Comparison) -> list[str]:
    """Returns the sentences that the table needs to be read."""
    seeds = plural(len(comparison.seeds), "seed")
    said = [
        f"Limits: {milliseconds(comparison.latency_limit_ms)} as measured and "
        f"{count(comparison.params_limit)} parameters; a ! marks what a method does not keep. "
        f"{comparison.score.capitalize()} on the test split in %, mean and standard deviation over "
        f"{seeds}. Verdict: against {OURS}, with the difference in points; a tie is what the "
        "paired t-test over seeds does not tell apart (5 %, not corrected for the number of "
        "methods). Search: trainings that the answer rests on, and their time over all workers. "
        "GFLOP/s: two operations for every multiply-accumulate, over measured time.",
        visible(comparison),
        noise(comparison),
        *twins(comparison),
        f"Data: {comparison.data}.",
    ]
    if comparison.no_power:
        said.append(f"Power and GFLOP/J were not measured: {comparison.no_power}.")
    said += nearness(comparison)
    said += [f"{method} is left out: {why}" for method, why in comparison.refusals.items()]
    return said


def twins(comparison: Comparison) -> list[str]:
    """Returns which methods have found one network, as a sentence where some have."""
    found: dict[NetworkSpec, list[str]] = {}
    for entry in comparison.ranked:
        found.setdefault(entry.proposal.spec, []).append(entry.proposal.method)
    same = [" and ".join(methods) for methods in found.values() if len(methods) > 1]
    return [f"One network each: {'; '.join(same)}."] if same else []


def noise(comparison: Comparison) -> str:
    """Returns how well the latencies are told, as a sentence."""
    floors = {
        entry.proposal.method: entry.proposal.latency.noise_floor for entry in comparison.entries
    }
    said = f"The noise floor of the latencies is {percent(median(floors.values()))} in the median"
    loud = [f"{method} ({percent(f)})" for method, f in floors.items() if f > MOST_NOISE]
    if not loud:
        return f"{said}, {percent(max(floors.values()))} at most."
    return f"{said}; those of {', '.join(loud)} are as good as a disturbed machine allows."


def visible(comparison: Comparison) -> str:
    """Returns how small a difference could have been seen, as a sentence."""
    seeds = len(comparison.seeds)
    found = least_visible(lines(comparison))
    if found is None:
        few = "one seed tells" if seeds == 1 else f"these {seeds} seeds tell"
        return f"{few[0].upper()}{few[1:]} nothing apart: every difference is called a tie."
    least, middle, most = (f"{100 * half:.1f}" for half in found)
    return (
        f"With {seeds} seeds a difference from {OURS} below about {middle} points is a tie: half "
        f"the 95 % interval, the median over the methods ({least} to {most})."
    )
