"""What every result file of a benchmark says besides its numbers, and where it lies."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def write_results(name: str, command: str, **numbers: Any) -> Path:
    """Writes docs/results/NAME.json."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    tree = {
        "command": command,
        "hardware": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "load": [round(load, 1) for load in os.getloadavg()],
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "numpy", "scipy")},
        },
        **numbers,
    }
    path = DOCS / "results" / f"{name}.json"
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return path
