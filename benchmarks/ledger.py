"""How long a driver takes to know the rows of an interrupted run: ``python benchmarks/ledger.py``.

Fills a ledger with made-up rows, one file each as workers write them and moved into parts as a
driver does, and opens it as ``resume`` would, on a local disk and over S3 (moto's server on this
machine, which shares the cores). Writes docs/results/ledger.json.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from object_store import object_store  # noqa: E402
from record import machine, options, run, spread, write_block, write_results  # noqa: E402
from test_store import row  # noqa: E402

from engine.ledger import MANY, Ledger  # noqa: E402
from engine.storage import open_folder  # noqa: E402

LOOSE = MANY - 1
"""Rows that lie in files of their own at the worst moment to die."""


def fill(location: str, rows: int) -> None:
    """Leaves ``rows`` rows as a driver would that died at the worst moment."""
    ledger = Ledger(open_folder(location))
    written = 0
    while written < rows - LOOSE:
        size = min(MANY, rows - LOOSE - written)
        fresh = [row(written + number) for number in range(size)]
        # As `compact` finds them; the files of their own are not what is measured.
        by_id = {one.task.id: one for one in fresh}
        ledger._rows = by_id  # pyright: ignore[reportPrivateUsage]
        ledger._write_part(sorted(by_id))  # pyright: ignore[reportPrivateUsage]
        written += size
    worker = Ledger(open_folder(location))
    for number in range(written, rows):
        worker.add(row(number))


def open_seconds(location: str, rows: int) -> float:
    """Returns how long a new driver takes until it knows all rows."""
    began = time.perf_counter()
    found = len(Ledger(open_folder(location), read_only=True).ids())
    seconds = time.perf_counter() - began
    assert found == rows, f"{found} of {rows} rows"
    return seconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, object_store() as server:
        for kind, location in (("local disk", f"{folder}/ledger"), ("S3", server.uri("ledger"))):
            fill(location, arguments.rows)
            times = [open_seconds(location, arguments.rows) for _ in range(arguments.repeats)]
            results[kind] = spread(times)
            print(kind, results[kind], flush=True)
    found = {
        "rows": arguments.rows,
        "rows_in_files_of_their_own": LOOSE,
        "n": arguments.repeats,
        "seconds_to_know_all_rows": results,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_results("ledger", found, arguments.out)
    lines = ["| the run lies on | seconds until all rows are known |", "| --- | --- |"]
    lines += [
        f"| {kind} | {of['median']:.2f} ({of['min']:.2f} to {of['max']:.2f}) |"
        for kind, of in results.items()
    ]
    facts = f"{arguments.rows:,} rows, n = {arguments.repeats}, median (least to most). {machine()}"
    write_block("cluster.md", "ledger", "\n".join([*lines, "", facts]), arguments.out)


if __name__ == "__main__":
    run(main)
