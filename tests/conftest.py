"""Bounds what tests take of the machine, before PyTorch and Ray read it."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
