"""Made-up entries of a comparison, for tests of what is computed and shown of them."""

from engine.comparison import Comparison, Entry, Proposal
from engine.results import Latency
from engine.spec import ModelRef, NetworkSpec


def entry(
    method: str,
    *accuracies: float | None,
    macs: int = 10_000_000,
    params: int = 600_000,
    ms: float = 1.0,
) -> Entry:
    latency = Latency(
        ms=ms,
        wall_ms_min=ms,
        wall_ms_median=ms,
        wall_ms_p95=ms,
        wall_ms_mean50=ms,
        noise_floor=0.02,
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


def comparison(*entries: Entry, **refusals: str) -> Comparison:
    return Comparison(
        name="example",
        latency_limit_ms=1.5,
        params_limit=800_000,
        seeds=tuple(range(len(entries[0].accuracies))),
        entries=entries,
        refusals=refusals,
        environment={"cpu": "a processor", "torch": "2.15"},
        data="made-up images",
    )
