"""A made-up run for tests of what is shown: plausible numbers from formulas, nothing measured."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from engine.limits import Usage
from engine.profile_key import ProfileKey
from engine.results import (
    AccuracyFigures,
    AllocateResult,
    Allocation,
    AlphaCandidate,
    AlphaResult,
    BaselineResult,
    Candidate,
    ChooseResult,
    DataFacts,
    FitResult,
    ImportancePredictor,
    ImportanceSample,
    Latency,
    LatencyFigures,
    MemoryFigures,
    ModelQuality,
    PredictorFigures,
    ProfileResult,
    Result,
    Round,
    RunRecord,
    SampleResult,
    Step,
    SurfaceFigures,
    Trained,
)
from engine.rows import Epoch
from engine.spec import ModelRef, NetworkSpec

VGG11 = ("0", "4", "8", "11", "15", "18", "22", "25")
QUARTER = (16, 32, 64, 64, 128, 128, 128, 128)
POOLED = (0, 1, 2, 2, 3, 3, 4, 4)


def example_run(
    names: Sequence[str] = tuple(f"features.{i}" for i in VGG11),
    *,
    samples: int = 12,
    candidates: int = 6,
    repeats: int = 2,
    steps: int = 60,
    epochs: int = 10,
    failures: tuple[str, ...] = (),
) -> RunRecord:
    """Fabricates a run over a chain of 3×3 convolutions, VGG-11 at quarter width by default."""
    rng = random.Random(7)
    n = len(names)
    base = {g: QUARTER[i * len(QUARTER) // n] for i, g in enumerate(names)}
    shrink = [POOLED[i * len(POOLED) // n] for i in range(n)]
    ref = ModelRef(name="vgg11", classes=10)
    spec = NetworkSpec(model=ref, resolution=32, widths=tuple(base.items()))

    def params(widths: dict[str, int]) -> int:
        c = [3, *widths.values()]
        return sum(9 * i * o + 2 * o for i, o in pairwise(c)) + 11 * c[-1]

    def macs(widths: dict[str, int], resolution: int) -> int:
        c = [3, *widths.values()]
        sides = [resolution >> s for s in shrink]
        return sum(9 * i * o * s * s for i, o, s in zip(c, c[1:], sides, strict=False))

    def usage(widths: dict[str, int], resolution: int) -> Usage:
        ms = 0.4 + macs(widths, resolution) / 9e6 + params(widths) / 3e6
        return Usage(latency_ms=ms, params=params(widths))

    def latency(ms: float) -> Latency:
        return Latency(
            ms=ms,
            wall_ms_min=ms * 0.99,
            wall_ms_median=ms * 1.04,
            wall_ms_p95=ms * 1.31,
            wall_ms_mean50=ms * 1.09,
            noise_floor=0.018,
        )

    def training(final: float, row: str) -> Trained:
        history = tuple(
            Epoch(
                train_loss=0.5 + 1.7 * math.exp(-3.2 * t),
                val_loss=2.3 - 2.0 * reached + rng.gauss(0, 0.02),
                val_accuracy=reached,
                seconds=11.0,
            )
            for t in ((e + 1) / epochs for e in range(epochs))
            for reached in [final * (1 - 0.62 * math.exp(-4 * t)) / (1 - 0.62 * math.exp(-4))]
        )
        return Trained(
            row=row,
            val_accuracy=history[-1].val_accuracy,
            test_accuracy=final - 0.006,
            history=history,
            weights=f"train-{row}/weights.safetensors",
        )

    key = ProfileKey(
        device="Example CPU @ 2.00GHz",
        runtime="eager",
        layout="contiguous",
        dtype="float32",
        threads=1,
        batch=1,
    )
    predictors = {
        g: ImportancePredictor(
            a=2e-3 * (1 + i % 5) * 0.93**i,
            b=-1.5 + 0.4 * i / n,
            b_se=0.05,
            r2=0.97 - 0.002 * i,
            sum_r2=0.8 - 0.01 * i,
            flag="",
            b_low=-1.62 + 0.4 * i / n,
            b_high=-1.41 + 0.4 * i / n,
        )
        for i, g in enumerate(names)
    }
    drawn = tuple(
        ImportanceSample(
            row=f"{k:016x}",
            index=k,
            widths=widths,
            importance={g: predictors[g](c) * math.exp(rng.gauss(0, 0.08)) for g, c in items},
            val_loss=1.1 + rng.gauss(0, 0.05),
            val_accuracy=0.62 + rng.gauss(0, 0.02),
        )
        for k in range(samples)
        for widths in [{g: round(c * 2 ** rng.uniform(-1, 1)) for g, c in base.items()}]
        for items in [tuple(widths.items())]
    )

    tried: list[AlphaCandidate] = []
    for k in range(candidates):
        alpha = 0.05 + 0.9 * (k + 0.5) / candidates
        accuracies = tuple(
            0.66 - 0.12 * (alpha - 0.4) ** 2 + rng.gauss(0, 0.006) for _ in range(repeats)
        )
        tried.append(
            AlphaCandidate(
                alphas=(alpha, alpha + 0.02) if k % 3 == 1 else (alpha,),
                spec=spec.at(8 * round(4 * 2 ** (alpha / 2))),
                macs_ratio=1.9 + 0.04 * k,
                accuracies=accuracies,
                losses=tuple(1.6 - a for a in accuracies),
            )
        )
    winner = max(tried, key=lambda c: sum(c.accuracies))
    resolution = winner.spec.resolution

    widths = dict(base)
    start = usage(widths, resolution)
    trace: list[Step] = []
    for _ in range(steps):
        group = max(
            (g for g in names if widths[g] < 4 * base[g]),
            key=lambda g: predictors[g](widths[g]),
            default=names[0],
        )
        importance = predictors[group](widths[group])
        widths[group] += 8
        used = usage(widths, resolution)
        trace.append(Step(group=group, width=widths[group], importance=importance, usage=used))
    end = usage(widths, resolution)
    limit = Usage(latency_ms=end.latency_ms * 1.012, params=math.floor(end.params * 1.004))
    stop = "latency limit and parameter limit reached"
    measured = latency(end.latency_ms * 1.006)
    final = spec.at(resolution).with_widths(widths)
    allocation = Allocation(
        widths=widths,
        start=start,
        usage=end,
        limit=limit,
        steps=tuple(trace),
        closed={g: ("latency", "params", "width cap")[i % 3] for i, g in enumerate(names)},
        stop_reason=stop,
    )

    times = [2.0 * 1.31**k for k in range(8)]
    guesses = [t * math.exp(rng.gauss(0, 0.06)) for t in times]
    baseline = training(0.712, "b" * 16)
    trained = training(0.748, "c" * 16)
    return RunRecord(
        name="vgg11-quarter",
        recipe="model: vgg11\nwidth: 0.25\nlimits:\n  latency: 1.6x\n  params: 1.33x\n",
        data=DataFacts(
            name="images <of> nothing & nobody",
            digest="5f1d3c0a9be24e77",
            classes=10,
            channels=3,
            train_images=8500,
            validation_images=1500,
            test_images=10_000,
            mean=(0.49, 0.48, 0.45),
            std=(0.25, 0.24, 0.26),
        ),
        baseline=BaselineResult(
            spec=spec,
            macs=macs(base, 32),
            params=params(base),
            memory_bytes=4 * params(base) + 1_048_576,
            latency=latency(usage(base, 32).latency_ms),
            key=key,
            trained=baseline,
        ),
        profile=ProfileResult(
            model="{}",
            quality=ModelQuality(
                mape=sum(abs(g / t - 1) for g, t in zip(guesses, times, strict=True)) / 8,
                rmspe=(sum((g / t - 1) ** 2 for g, t in zip(guesses, times, strict=True)) / 8)
                ** 0.5,
                within_10=0.875,
                spearman=0.976,
                predicted_ms=tuple(guesses),
                measured_ms=tuple(times),
            ),
            granularity={"conv 3x3": 16},
            noise_floor=0.018,
            key=key,
            environment={
                "device": "Example CPU @ 2.00GHz",
                "runtime": "eager",
                "threads": "1",
                "torch": "2.11.0",
            },
            seconds=94.0,
        ),
        alpha=AlphaResult(
            alpha=winner.alphas[0],
            resolution=resolution,
            standard_error=0.006 / math.sqrt(repeats) if repeats > 1 else None,
            tied=min(2, candidates - 1) if repeats > 1 else None,
            candidates=tuple(tried),
            failed=0,
        ),
        sample=SampleResult(
            samples=drawn,
            failures=tuple(f.partition(": ")[2] for f in failures),
            networks=len(drawn) + len(failures),
        ),
        fit=FitResult(predictors=predictors),
        allocate=AllocateResult(
            spec=final,
            macs=macs(widths, resolution),
            params=end.params,
            memory_bytes=4 * end.params + 2_097_152,
            rounds=(
                Round(
                    allocation=allocation,
                    latency=latency(end.latency_ms * 1.031),
                    factor=1.0,
                    room=1.0,
                ),
                Round(allocation=allocation, latency=measured, factor=1.031, room=1.01),
            ),
            chosen=1,
        ),
        choose=ChooseResult(
            surface=SurfaceFigures(r2=0.43, rmse=0.021, losses=24),
            tied=0,
            candidates=(
                Candidate(
                    method="algorithm-1",
                    spec=final,
                    macs=macs(widths, resolution),
                    params=end.params,
                    memory_bytes=4 * end.params + 2_097_152,
                    predicted_ms=end.latency_ms,
                    latency=measured,
                    rounds=2,
                    accuracies=(0.731, 0.737),
                    losses=(0.91, 0.9),
                ),
                Candidate(
                    method="uniform-alpha",
                    spec=spec.at(resolution),
                    macs=macs(base, resolution),
                    params=params(base),
                    memory_bytes=4 * params(base) + 2_097_152,
                    predicted_ms=usage(base, resolution).latency_ms,
                    latency=latency(usage(base, resolution).latency_ms),
                    rounds=1,
                    accuracies=(0.712, 0.72),
                    losses=(0.98, 0.97),
                ),
            ),
            chosen=0,
            left_out={"response": "no sampled network has a loss"},
        ),
        trained=trained,
        latency=measured,
        result=Result(
            alpha=winner.alphas[0],
            resolution=resolution,
            widths=widths,
            params=end.params,
            macs=macs(widths, resolution),
            latency_ms=LatencyFigures(
                limit=limit.latency_ms,
                predicted=end.latency_ms,
                chosen=measured.ms,
                measured=measured.ms,
                noise_floor=measured.noise_floor,
                rounds=2,
                verdict=measured.verdict(limit.latency_ms),
            ),
            memory=MemoryFigures(
                limit=limit.params,
                used=end.params,
                bytes_limit=None,
                bytes_used=4 * end.params + 2_097_152,
            ),
            accuracy=AccuracyFigures(
                baseline_test=baseline.test_accuracy,
                test=trained.test_accuracy,
                val=trained.val_accuracy,
            ),
            predictors={
                g: PredictorFigures(a=p.a, b=p.b, r2=p.r2, flag=p.flag)
                for g, p in predictors.items()
            },
            method="algorithm-1",
            stop_reason=stop,
            seed=0,
            recipe_key="0123456789abcdef",
        ),
        failures=failures,
    )
