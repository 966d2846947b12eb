"""How long a search takes on 1 to 1,000 GPUs, by simulated time.

Durations are drawn from those of the rows of a finished run, or are assumed. Trials are started
in order wherever a slot is free (what Tune does); a batch of the α search ends before the next
begins, as in the program. Profile, allocation and choice are left out.
"""

import random
from dataclasses import dataclass

from cluster.plan import makespan

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A search, in trainings and seconds.

    Attributes:
        batches: α batches, each with so many trainings.
        samples: sampled networks, all at once.
        alpha_seconds, sample_seconds: durations to draw from, on one GPU.
        final_seconds: baseline and result, on one GPU.
        final_workers: most GPUs that share a final training.
        scaling: speed of n workers is n**scaling.
        overhead_seconds: of the orchestration, per trial.
        start_seconds: of every stage: actors and imports.
    """

    batches: tuple[int, ...]
    samples: int
    alpha_seconds: tuple[float, ...]
    sample_seconds: tuple[float, ...]
    final_seconds: float
    final_workers: int = 8
    scaling: float = 0.9
    overhead_seconds: float = 0.15
    start_seconds: float = 10.0


def simulated(workload: Workload, gpus: int, seed: int) -> dict[str, float]:
    """Returns the seconds of each part of a search, and in all."""
    rng = random.Random(seed)  # the same draws for every number of GPUs

    def draw(durations: tuple[float, ...], count: int) -> list[float]:
        return [rng.choice(durations) + workload.overhead_seconds for _ in range(count)]

    alpha = workload.start_seconds + sum(
        makespan(draw(workload.alpha_seconds, batch), gpus) for batch in workload.batches
    )
    sampled = draw(workload.sample_seconds, workload.samples)
    sample = workload.start_seconds + makespan(sampled, gpus)
    workers = min(gpus, workload.final_workers)
    final = 2 * (workload.start_seconds + workload.final_seconds / workers**workload.scaling)
    return {"alpha": alpha, "sample": sample, "final": final, "all": alpha + sample + final}
