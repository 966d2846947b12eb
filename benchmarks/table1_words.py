"""The Markdown of table1.py: every sentence follows from the numbers of one comparison."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from engine.codec import STRICT
from engine.comparison import BASE, OURS, Comparison, Line, lines
from engine.comparison_table import ComparisonTable, table_of
from engine.comparison_words import notes, twins, verdict
from engine.display import count, milliseconds, percent, plural, points
from engine.fidelity import sentences
from engine.results import AlphaResult, ChooseResult, FidelityLadder, Judged, ModelQuality

RESOLUTION = "resolution"
README_PAGE = "../README.md"
CONTROLS = (BASE, "uniform", "flat", RESOLUTION)
"""Rows of the first screen, beside the run's result and the best of the others."""


FIGURES = {
    "accuracy-latency": "Top-1 accuracy against measured latency",
    "accuracy-params": "Top-1 accuracy against parameters",
    "utilisation": "Utilisation of every method",
    "efficiency": "Power efficiency of every method",
    "dimensions-utilisation": "Utilisation against MACs for width, depth and resolution",
    "dimensions-latency": "Latency against MACs for width, depth and resolution",
    "fit": "Predicted importance against actual",
}
"""Panels of a comparison that are shown here, and what they show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """How a run found its answer, as far as its result file says; earlier ones say less.

    Attributes:
        latency_model: of networks that it had not seen.
        rounds_ms: networks of Algorithm 1 in the order of the closed loop, as measured.
    """

    __pydantic_config__ = STRICT

    latency_model: ModelQuality | None = None
    rounds_ms: tuple[float, ...] = ()
    alpha: AlphaResult | None = None
    choice: ChooseResult | None = None
    fidelity: FidelityLadder | None = None


def section(
    recipe: str,
    form: str,
    decisions: Decisions,
    comparison: Comparison,
    setting: str,
    drawn: Collection[str],
) -> str:
    """The part of docs/table1.md that is of one recipe; ``drawn`` are its figures."""
    pictures = [
        f"![{label}](figures/{recipe}-{name}.svg)"
        for name, label in FIGURES.items()
        if name in drawn
    ]
    return "\n\n".join(
        [
            f"## {recipe}",
            f"{form} {comparison.data}. Latency on {setting}.",
            markdown(table_of(comparison)),
            outcome(comparison),
            *decided(decisions, comparison.latency_limit_ms),
            *notes(comparison),
            *pictures,
        ]
    )


def essence(recipe: str, form: str, comparison: Comparison, setting: str) -> str:
    """The first screen of the README."""
    whole = table_of(comparison)
    kept = [line for line in whole.lines if line.keeps_latency and line.keeps_params]
    others = [line.method for line in kept if line.method not in (OURS, *CONTROLS)]
    shown = {OURS, *CONTROLS, *others[:1]}
    few = ComparisonTable(
        columns=tuple(c for c in whole.columns if c.short not in ("MACs", "GF/s", "W", "GF/J")),
        lines=tuple(line for line in whole.lines if line.method in shown),
    )
    return "\n\n".join(
        [
            markdown(few),
            f"*`{recipe}`: {form} {comparison.data}; mean ± standard deviation over "
            f"{len(comparison.seeds)} seeds. Latency on {setting}. Search: trainings that the "
            "answer rests on, and their time over all workers.*",
            " ".join((_limits(comparison), *twins(_of(comparison, shown)), brief(comparison))),
            f"![{FIGURES['accuracy-latency']}](docs/figures/{recipe}-accuracy-latency.svg)",
        ]
    )


def _of(comparison: Comparison, methods: Collection[str]) -> Comparison:
    entries = tuple(e for e in comparison.entries if e.proposal.method in methods)
    return replace(comparison, entries=entries)


def _limits(comparison: Comparison) -> str:
    return (
        f"The limits are {milliseconds(comparison.latency_limit_ms)} as measured and "
        f"{count(comparison.params_limit)} parameters."
    )


def beside(recipe: str, comparison: Comparison) -> str:
    """What another table came to, in the README."""
    return f"`{recipe}`: {brief(comparison)}"


def markdown(table: ComparisonTable) -> str:
    """A table of Markdown; the run's result in bold."""
    rows: list[Sequence[str]] = [[column.heading for column in table.columns]]
    rows.append(["---", *["---:"] * (len(table.columns) - 1)])
    for line, (method, *cells) in zip(table.lines, table.rows, strict=True):
        strong = "**" if line.method == OURS else ""
        rows.append([f"{strong}`{method}`{strong}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def outcome(comparison: Comparison) -> str:
    """Who wins, what is a tie, and how much of the gain is resolution."""
    table = lines(comparison)
    return " ".join((_winner(comparison, table), f"{verdict(comparison)}.", _resolution(table)))


def decided(decisions: Decisions, limit_ms: float) -> list[str]:
    """How the run chose its resolution and its answer, and what its short trainings are worth."""
    said: list[str] = []
    alpha, choice = decisions.alpha, decisions.choice
    if alpha is not None:
        tried = [f"{one.spec.resolution} px {_judged(one)}" for one in alpha.candidates]
        best = f"The best is {alpha.resolution} px{_tied(alpha.tied)}."
        said.append(f"Resolution: {', '.join(tried)}. {best}")
    if choice is not None and len(choice.candidates) > 1:
        tried = [
            f"`{one.method}` {_judged(one)} at {one.spec.resolution} px"
            for one in choice.candidates
            if one.accuracies
        ]
        answer = f"The answer is that of `{choice.winner.method}`{_tied(choice.tied)}."
        said.append(f"Widths: {', '.join(tried)}. {answer}")
        if choice.surface is not None:
            said.append(
                f"The response surface tells the losses of networks left out of its fit with R² = "
                f"{choice.surface.r2:.2f}."
            )
    how = "How hacscale decided, by accuracy on the validation split (each short training):"
    paragraphs = [" ".join((how, *said))] if said else []
    model, rounds_ms = decisions.latency_model, decisions.rounds_ms
    if model is not None:
        shares = [f"{100 * (ms / limit_ms - 1):+.1f} %".replace("-", "−") for ms in rounds_ms]
        paragraphs.append(
            f"The latency model was off by {percent(model.mape)} on "
            f"{plural(len(model.measured_ms), 'network')} that it had not seen. As measured, the "
            f"networks of Algorithm 1 lay {', '.join(shares)} from the limit, in the order of the "
            "closed loop."
        )
    if decisions.fidelity is not None:
        worth = "; ".join(sentences(decisions.fidelity))
        paragraphs.append(f"What its short trainings are worth, on sampled networks: {worth}.")
    return paragraphs


def _tied(others: int | None) -> str:
    return "" if others is None else f"; {others} of the others cannot be distinguished from it"


def _judged(one: Judged) -> str:
    return f"{percent(one.accuracy)} ({', '.join(f'{100 * a:.1f}' for a in one.accuracies)})"


def brief(comparison: Comparison) -> str:
    """The same without the names of all methods."""
    table = lines(comparison)
    # Several methods may have found one network; the one that counts is the first of the table.
    verdicts = {comparison.spec(line.method): line.verdict for line in reversed(table)}
    del verdicts[comparison.spec(OURS)]
    counted = Counter(verdicts.values())
    worse = verdicts.get(comparison.spec(BASE)) == "worse"
    base = ", the base network among them" if worse else ""
    counts = (
        f"{OURS} is better than {counted['worse']} of the other networks{base}, tied "
        f"with {counted['tie']} and behind {counted['better'] or 'none'}."
    )
    return " ".join((_winner(comparison, table), counts, _resolution(table)))


def _winner(comparison: Comparison, table: Sequence[Line]) -> str:
    kept = [
        line
        for line in table
        if line.keeps_latency and line.keeps_params and line.top1_mean is not None
    ]
    if not kept or kept[0].top1_mean is None:
        return "No method that keeps both limits has a trained network."
    best = kept[0]
    networks = len({comparison.spec(line.method) for line in kept})
    beside = {
        "tie": f", which {OURS} cannot be told from",
        "better": f", and {OURS} is behind it",
    }.get(best.verdict or "", "")
    return (
        f"Of {networks} networks that keep both limits, that of `{best.method}` has the best "
        f"mean, {percent(best.top1_mean or 0.0)}{beside}."
    )


def _resolution(table: Sequence[Line]) -> str:
    by_name = {line.method: line for line in table}
    base, ours, alone = by_name[BASE], by_name[OURS], by_name.get(RESOLUTION)
    if base.top1_mean is None or ours.top1_mean is None:
        return "How much resolution alone gains is not known: a training failed."
    gain = ours.top1_mean - base.top1_mean
    if not alone or alone.top1_mean is None:
        return f"{OURS} is {points(gain)} from the base network; resolution alone was not compared."
    part = alone.top1_mean - base.top1_mean
    if alone.resolution != ours.resolution:
        return (
            f"{OURS}, at {ours.resolution} px, is {points(gain)} from the base network; resolution "
            f"alone, at the {alone.resolution} px that the limits leave it, {points(part)}."
        )
    share = f", {100 * part / gain:.0f} % of that" if gain > 0 and part > 0 else ""
    beside = {
        "tie": "the two are a tie",
        "better": "which is more",
        "worse": "the rest is what widths add",
    }[alone.verdict or "tie"]
    return (
        f"{OURS} is {points(gain)} from the base network; resolution alone {points(part)}{share}; "
        f"{beside}."
    )
