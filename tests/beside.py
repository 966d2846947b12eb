"""A user's loss, whose module reads a file of the directory that the driver was started from."""

from pathlib import Path

from torch.nn import functional

if not Path("pyproject.toml").read_text(encoding="utf-8"):
    raise ImportError("pyproject.toml is empty")

loss = functional.cross_entropy
