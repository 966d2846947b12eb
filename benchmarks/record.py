"""What every result file of a benchmark says besides its numbers, and where it lies."""

import argparse
import json
import os
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from engine.bench import cpu_name
from engine.errors import UserError
from engine.provenance import hardware, package_version, revision, versions
from engine.recipe import Device, Profile

DOCS = Path(__file__).parents[1] / "docs"
FURTHER = ("scikit-learn", "onnxruntime")
"""Packages that figures of a benchmark depend on, and a run of the program does not always."""

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """n, mean, median, least and most."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def options(text: str | None) -> argparse.ArgumentParser:
    """A parser of the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS, help="directory of pages and figures, docs/ by default"
    )
    return parser


def device_options(text: str | None) -> argparse.ArgumentParser:
    """Those, and what networks are timed on and how often."""
    parser = options(text)
    for name in ("runtime", "accelerator"):
        values = get_args(get_type_hints(Device)[name])
        parser.add_argument(f"--{name}", choices=values, default=getattr(Device(), name))
    parser.add_argument("--calls", type=int, default=Profile().calls, help="forwards of a round")
    parser.add_argument("--rounds", type=int, default=Profile().rounds, help="of each network")
    return parser


def on_device(name: str, runtime: str, accelerator: str) -> str:
    """The name of a result on a device, if that is not what is measured by default."""
    usual = (Device().runtime, Device().accelerator)
    return name if (runtime, accelerator) == usual else f"{name}-{runtime}-{accelerator}"


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark; a user's error and Ctrl-C are one line, as in the program."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what a run keeps", file=sys.stderr)
        sys.exit(130)


def command() -> str:
    """This program's command line at the repository's root; absolute paths are told as PATH."""
    words = (re.sub(r"(^|[:=])/.*", r"\1PATH", word) for word in sys.argv[1:])
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def write_results(name: str, found: dict[str, Any], out: Path = DOCS) -> Path:
    """Writes OUT/results/NAME.json with command, revision, hardware and versions, and says so."""
    tree = {
        "command": command(),
        "revision": revision(DOCS),
        "hardware": {
            **hardware(),
            "cpu": cpu_name(),
            "load": [round(load, 1) for load in os.getloadavg()],
        },
        "versions": {**versions(), **{package: package_version(package) for package in FURTHER}},
        **found,
    }
    path = out / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def write_block(page: str, name: str, text: str, out: Path = DOCS) -> None:
    """Puts Markdown between the marks of ``name`` in OUT/PAGE, and says so."""
    path = out / page
    source = (path if path.exists() else DOCS / page).read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    marks = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    block = f"{begin}\n{text.strip()}\n{end}"
    written, count = marks.subn(lambda _: block, source)
    if count != 1:
        sys.exit(f"{path} must hold {begin} and {end} once, not {count} times")
    path.write_text(written, encoding="utf-8")
    print(f"wrote {name} into {path}")


def write_device_block(page: str, usual: str, name: str, text: str, out: Path = DOCS) -> None:
    """Writes the block of the ``usual`` name; pages have no place for other devices: prints it."""
    if name == usual:
        write_block(page, name, text, out)
    else:
        print(f"{page} has no place for {name}:\n\n{text}")


def machine() -> str:
    """What was measured on and with, and what else the machine did, for people."""
    return (
        f"{cpu_name()}, {hardware()['cores']} cores, load {os.getloadavg()[0]:.1f}; Ray "
        f"{package_version('ray')}, PyTorch {package_version('torch').partition('+')[0]}."
    )


def where(found: dict[str, str]) -> str:
    """What was measured on and with, for people: of `engine.measure.Measurement.environment`."""
    threads = "1 thread" if found.get("threads") == "1" else f"{found.get('threads')} threads"
    on_cpu, instructions = found.get("accelerator") == "cpu", found.get("instructions", "")
    known = (
        found.get("device"),
        instructions if on_cpu and instructions not in found.get("device", "") else None,
        found.get("runtime"),
        threads if "threads" in found else None,
        f"batch {found['batch']}",
        f"PyTorch {found['torch'].partition('+')[0]}" if "torch" in found else None,
        f"ONNX Runtime {found['onnxruntime']}" if "onnxruntime" in found else None,
        found.get("clock"),
    )
    return ", ".join(text for text in known if text)
