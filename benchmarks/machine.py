"""What every result of a benchmark says about where it comes from."""

import json
import statistics
from pathlib import Path
from typing import Any

from engine.provenance import hardware, versions

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def spread(values: list[float]) -> dict[str, float]:
    """n, mean, median, least and most."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def write_result(name: str, found: dict[str, Any]) -> None:
    """Writes docs/results/NAME.json with hardware and versions, and prints it."""
    text = json.dumps({"hardware": hardware(), "versions": versions(), **found}, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
