"""Made-up entries of a comparison, for tests of what is computed and shown of them."""

import random
from dataclasses import replace

from example_run import example_run

from engine.comparison import Comparison, Entry, Proposal
from engine.dimensions import Dimensions, Scaled
from engine.results import Latency, RunRecord
from engine.spec import ModelRef, NetworkSpec


def entry(
    method: str,
    *accuracies: float | None,
    macs: int = 10_000_000,
    params: int = 600_000,
    ms: float = 1.0,
    power_w: float | None = None,
) -> Entry:
    """With ``power_w``, energy is what that power comes to in ``ms``."""
    latency = replace(
        Latency.constant(ms, noise_floor=0.02),
        power_mw=power_w and 1e3 * power_w,
        energy_mj=power_w and power_w * ms,
    )
    spec = NetworkSpec(
        model=ModelRef(name="vgg11", classes=10), resolution=32, widths=(("features.0", 16),)
    )
    return Entry(
        proposal=Proposal(
            method=method,
            spec=spec,
            macs=macs,
            params=params,
            latency=latency,
            limits=("latency", "params"),
            rounds=1,
            search_seconds=0.0,
            search_trials=0,
        ),
        accuracies=accuracies,
    )


def comparison(*entries: Entry, run: RunRecord | None = None, **refusals: str) -> Comparison:
    run = run or example_run()
    return Comparison(
        name="example",
        latency_limit_ms=1.5,
        params_limit=800_000,
        batch=1,
        seeds=tuple(range(len(entries[0].accuracies))),
        entries=entries,
        refusals=refusals,
        environment={"cpu": "a processor", "torch": "2.15"},
        data="made-up images",
        sample=run.sample,
        fit=run.fit,
        dimensions=_dimensions(),
    )


METHODS = (
    *("base", "hacscale", "uniform", "uniform-latency", "uniform-params", "flat", "resolution"),
    *("depth", "efficientnet", "efficientnet-grid", "fast-compound", "random-0", "inverse-width"),
    *("hacscale-paper", "hacscale-per-ms", "hacscale-per-param", "hacscale-slimmable"),
    *("hacscale-initial", "response", "neuralscale-1", "neuralscale-15", "morphnet", "netadapt"),
    *("netadapt-grow", "legr"),
)


def whole_comparison(power: bool = False) -> Comparison:
    """All methods, as crowded as they come: most use the whole limit of latency."""
    rng = random.Random(3)
    run = example_run(("stem", "head"), steps=6)
    entries: list[Entry] = []
    for method in METHODS:
        base = method == "base"
        level = 0.65 if base else 0.67 + rng.gauss(0, 0.012)
        made = entry(
            method,
            *(level + rng.gauss(0, 0.006) for _ in range(3)),
            macs=9_880_832 if base else rng.randrange(18_000_000, 26_000_000),
            params=579_098 if base else rng.randrange(580_000, 800_000),
            ms=0.885 if base else 1.5 - abs(rng.gauss(0, 0.05)),
            power_w=rng.uniform(6.5, 8.5) if power else None,
        )
        spec = run.allocate.spec if method == "hacscale" else run.baseline.spec
        rests = 0 if method in ("base", "uniform", "flat") else rng.randrange(10, 400)
        proposal = replace(
            made.proposal, spec=spec, search_trials=rests, search_seconds=31.0 * rests
        )
        entries.append(replace(made, proposal=proposal))
    why = {} if power else {"power": "not measured: the system shows no RAPL counter"}
    whole = comparison(*entries, run=run, lfv="no such method")
    return replace(whole, environment={**whole.environment, **why})


def _dimensions() -> Dimensions:
    def family(cost: float) -> tuple[Scaled, ...]:
        return tuple(
            Scaled(
                multiplier=m,
                macs=round(1e7 * m * m),
                params=600_000,
                latency=entry("", ms=0.3 + 0.6 * m**cost).proposal.latency,
            )
            for m in (1.0, 1.5, 2.0, 2.5)
        )

    return Dimensions(
        batch=1, families={"width": family(1.9), "depth": family(2.0), "resolution": family(1.7)}
    )
