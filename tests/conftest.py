"""Bounds what tests take of the machine, before PyTorch and Ray read it."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Others use the machine too: how long an example takes says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of PyTorch, so that sums are rounded alike."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
