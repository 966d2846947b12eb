"""How many trainings share a GPU, from made-up measurements, and what Ray makes of the shares."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.packing import (
    MOST_PER_GPU,
    lowered,
    networks_per_gpu,
    share_of,
    size,
    spread,
)
from engine.bench import is_out_of_memory
from engine.graph import load_graph
from engine.rows import TrainingTask
from engine.spec import ModelRef
from engine.training import FAST
from trainables.occupancy import Occupancy

GIB = 2**30


def packed(used: float, total: float = 16, utilisation: float | None = None) -> int:
    return networks_per_gpu(
        Occupancy(used_bytes=int(used * GIB), total_bytes=int(total * GIB), utilisation=utilisation)
    )


@pytest.mark.parametrize(
    ("used", "utilisation", "networks"),
    [
        (1.0, None, 8),  # 14 fit
        (4.0, None, 3),  # 3 × 4 of 14.4 GiB
        (4.9, None, 2),
        (8.0, None, 1),  # two would leave nothing to spare
        (16.0, None, 1),
        (1.0, 0.3, 4),
        (1.0, 1.0, 1),
        (4.0, 0.1, 3),  # memory binds
        (1.0, 0.0, 8),  # NVML saw nothing: no bound
    ],
)
def test_memory_and_utilisation_bound_the_packing(
    used: float, utilisation: float | None, networks: int
) -> None:
    assert packed(used, utilisation=utilisation) == networks


@given(st.floats(0.01, 200), st.floats(1, 200), st.none() | st.floats(0, 1))
def test_what_is_packed_fits(used: float, total: float, utilisation: float | None) -> None:
    networks = packed(used, total, utilisation)
    assert 1 <= networks <= MOST_PER_GPU
    assert networks == 1 or networks * used <= 0.9 * total + 1e-6


@pytest.mark.parametrize("networks", range(1, MOST_PER_GPU + 1))
def test_so_many_shares_are_a_gpu_as_ray_counts(networks: int) -> None:
    share = share_of(networks)
    in_ray = round(share * 10_000)  # Ray's fixed point
    assert networks * in_ray <= 10_000
    assert int(1 / share) == networks


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_SUBLIBRARY_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("the file system is out of memory"), False),
        (ValueError("CUDA out of memory"), False),
        (None, False),
    ],
)
def test_what_says_that_a_gpu_has_no_memory_left(error: Exception | None, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_lowering_ends_with_a_gpu_for_each() -> None:
    share, seen = share_of(8), [8]
    while (less := lowered(share)) is not None:
        share = less
        seen.append(int(1 / share))
    assert seen == [8, 4, 2, 1]
    assert lowered(0.3) == 1.0  # three of 0.3 fit, one of 1
    assert lowered(2.0) is None


def test_the_widest_network_is_measured() -> None:
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    small = TrainingTask(spec=graph.spec(32, 1 / 16), training=FAST, data="d", seed=0)
    wide = replace(small, spec=graph.spec(32, 1 / 8))
    large = replace(small, spec=graph.spec(48, 1 / 8))
    assert max([small, wide], key=size) == wide
    assert max([large, wide, small], key=size) == large


@pytest.mark.parametrize(
    ("networks", "count", "gpus", "together"),
    [
        (8, 8, 8, 1),  # one on each, where eight would fit on the first
        (8, 16, 8, 2),
        (8, 17, 8, 3),
        (3, 100, 8, 3),
        (8, 2, 1, 2),
        (8, 1, 64, 1),
        (4, 10, 0, 4),  # not told
    ],
)
def test_no_more_share_a_gpu_than_it_takes_for_all_to_run_at_once(
    networks: int, count: int, gpus: float, together: int
) -> None:
    assert spread(networks, count, gpus) == together
