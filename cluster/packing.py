"""How many trainings share a GPU."""

import math

import ray

from cluster.tasks import result_of
from engine.rows import TrainingTask
from trainables.data import ImageData
from trainables.occupancy import Occupancy, measure_occupancy

MOST_PER_GPU = 8
"""Beyond this, processes wait for one another more than for the GPU."""

_SPARE = 0.1
"""Share of the memory that stays free: trainings of other widths peak a little elsewhere."""

_RESOLUTION = 10_000
"""Ray counts shares of a GPU in ten-thousandths, and rounds: eight of 0.1251 are not one GPU."""


def networks_per_gpu(occupancy: Occupancy) -> int:
    """Returns how many trainings like the measured one share a GPU, 1 to `MOST_PER_GPU`.

    So many as fit into its memory with a tenth to spare, and no more than keep it busy: where one
    alone uses it u of the time, ⌈1/u⌉ do. NVML counts a kernel that fills a corner of the GPU as
    use of the GPU, so this errs towards fewer.
    """
    fit = int(occupancy.total_bytes * (1 - _SPARE) // max(occupancy.used_bytes, 1))
    busy = MOST_PER_GPU
    if occupancy.utilisation is not None:
        busy = math.ceil(1 / max(occupancy.utilisation, 1 / MOST_PER_GPU))
    return max(1, min(fit, busy, MOST_PER_GPU))


def share_of(networks: int) -> float:
    """Returns the largest share of a GPU of which ``networks`` fit on it."""
    return (_RESOLUTION // networks) / _RESOLUTION


def lowered(share: float) -> float | None:
    """Returns the share for half as many networks per GPU, None if one has it alone already."""
    networks = int(1 / share)
    return None if networks <= 1 else share_of(networks // 2)


def size(task: TrainingTask) -> int:
    """Returns channels times pixels, by which trainings differ in memory and in time."""
    return task.spec.resolution**2 * sum(width for _, width in task.spec.widths)


def spread(networks: int, count: int, gpus: float) -> int:
    """Returns how many of ``count`` trainings share a GPU: as few as let all of them run at once.

    Ray fills one GPU before it takes the next, and would leave others idle beside a full one.

    Args:
        networks: that may share one at the most.
        gpus: of the cluster.
    """
    return max(1, min(networks, math.ceil(count / max(gpus, 1.0))))


def measure_packing(
    task: TrainingTask, data: "ray.ObjectRef[ImageData]", cpus: int
) -> tuple[int, Occupancy]:
    """Trains ``task`` for some seconds on one GPU and returns how many like it share one."""
    measure = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(measure_occupancy)
    occupancy = result_of(measure.remote(task, data))  # pyright: ignore[reportCallIssue]
    return networks_per_gpu(occupancy), occupancy
