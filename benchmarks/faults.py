"""What a search under real Ray loses when something dies, fills up, is damaged or goes away.

    python benchmarks/faults.py [--scenarios driver workers …] [--kills 20] [--seed 0]

Every scenario disturbs a small search on a device without noise, takes it up again until it has
ended, and compares it with one that nothing happened to. What ran is written to
docs/results/faults.json, beside what other calls have written there.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import process_faults
import storage_faults
from fault_bench import Bench
from record import command, options, run, write_block, write_results

SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (*process_faults.SCENARIOS, *storage_faults.SCENARIOS)
}
COUNTS = {"deaths": "n = {}", "damaged_files": "{} files", "refused": "{} refused"}
NEED_ROOT = ("disk", "cut_off")
"""They mount a file system, or make a network."""


@contextmanager
def _kept_if_it_fails() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    yield folder
    shutil.rmtree(folder)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--kills", type=int, default=20, help="of the driver")
    parser.add_argument(
        "--minutes", type=float, default=60, help="after which it is killed no more"
    )
    parser.add_argument(
        "--folder", type=Path, help="for runs and logs, kept; one it has that ended whole is used"
    )
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from object_store import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # before the process that drivers are forks of
    # Ray lets its workers wait for whatever else the machine does; nothing here is timed.
    os.environ.setdefault("RAY_worker_niceness", "0")
    written = chosen.out / "results" / "faults.json"
    found = json.loads(written.read_text())["scenarios"] if written.exists() else {}
    with nullcontext(chosen.folder) if chosen.folder else _kept_if_it_fails() as folder:
        print(f"runs and logs in {folder}", flush=True)
        bench = Bench(folder, chosen.kills, chosen.minutes, chosen.seed)
        print("the search that nothing happens to has ended", flush=True)
        for name in chosen.scenarios:
            if name in NEED_ROOT and os.geteuid():
                print(f"{name}: left out, since only root can do it")
                continue
            print(name, flush=True)
            began = time.monotonic()
            found[name] = SCENARIOS[name](bench) | {
                "command": command(),
                "seconds": round(time.monotonic() - began),
            }
            print(f"  {found[name]}", flush=True)
            write_results("faults", {"scenarios": found}, chosen.out)
            write_block("cluster.md", "faults", _table(found), chosen.out)


def _table(found: dict[str, dict[str, Any]]) -> str:
    """The scenarios that ran, in Markdown."""
    lines = [
        "| scenario | what happened | trained again | epochs repeated | result |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, scenario in SCENARIOS.items():
        if name not in found:
            continue
        (what, *_) = (scenario.__doc__ or "").strip().splitlines()
        outcome = found[name]
        counts = [text.format(outcome[key]) for key, text in COUNTS.items() if outcome.get(key)]
        repeated = outcome.get("most_finished_epochs_repeated_by_a_training", "–")
        same = {True: "the same", False: "**another**"}.get(
            outcome["same_result"], f"the same {outcome['same_result']}"
        )
        again = outcome["finished_trainings_trained_again"]
        by_stage = outcome.get("deaths_by_stage", {})
        counts += [f"{deaths} in {stage}" for stage, deaths in by_stage.items() if deaths]
        if outcome.get("late_node_has_trained") is False:
            counts.append("which was not seen to train")
        what = ", ".join([what.rstrip("."), *counts])
        lines.append(f"| `{name}` | {what} | {again} | {repeated} | {same} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
