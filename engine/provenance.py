"""What a run was made with: versions, hardware, revision."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.recipe import Recipe
from engine.store import FORMAT, RunInfo

_PACKAGES = ("hacscale", "torch", "torchvision", "ray", "optuna", "numpy", "scipy")


def run_info(name: str, recipe_name: str, recipe: Recipe) -> RunInfo:
    """Returns the contents of ``run.json`` for this machine and environment."""
    return RunInfo(
        format=FORMAT,
        name=name,
        recipe_name=recipe_name,
        recipe=recipe,
        versions=versions(),
        hardware=hardware(),
        git=revision(),
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that matter."""
    packages = {package: package_version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def hardware() -> dict[str, str]:
    """Returns what machine this is."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": str(os.cpu_count()),
    }


def package_version(package: str) -> str:
    """Returns the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "not installed"


def revision(folder: Path | None = None) -> str:
    """Returns what git calls the state of the files here, or in a folder; "" without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            check=False,
            capture_output=True,
            text=True,
            timeout=5,
            cwd=folder,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
