"""``hacscale sample``: more sampled networks for a run."""

import argparse
import re
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.commands.driving import orderly_stop
from engine.commands.options import Commands, add_address, add_run, run_directory
from engine.commands.search import add_retry
from engine.errors import UserError
from engine.results import ImportancePredictor

_MORE = re.compile(r"\+?([1-9][0-9]{0,5})")


def add(commands: Commands) -> None:
    """Adds the command."""
    sample = commands.add_parser(
        "sample", help="train more sampled networks, then fit and allocate again"
    )
    add_run(sample)
    sample.add_argument("--networks", required=True, metavar="+N", help="how many more are trained")
    add_retry(sample)
    add_address(sample)
    sample.set_defaults(command=_sample)


def _sample(arguments: argparse.Namespace, console: Console) -> None:
    found = _MORE.fullmatch(arguments.networks)
    if found is None:
        raise UserError(
            f"--networks takes how many more are to be trained, as in +32, not "
            f"{arguments.networks!r}"
        )
    location = run_directory(arguments)
    from cluster.sampling import add_samples

    with orderly_stop(location, console, arguments):
        done = add_samples(
            location, int(found[1]), arguments.address, console, arguments.retry_failed
        )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("width group", overflow="fold")
    for name in ("b before", "b now", "R²", "base", "widths"):
        table.add_column(name, justify="right")
    for group, width in done.after.baseline.spec.widths:
        now = done.after.fit.predictors[group]
        table.add_row(
            Text(group),
            _exponent(done.before.fit.predictors[group]),
            _exponent(now),
            f"{now.r2:.3f}",
            str(width),
            str(done.allocated.spec.width_of[group]),
        )
    console.print(table)
    console.print(
        f"{len(done.before.sample.samples)} networks before, {len(done.after.sample.samples)} now; "
        "in brackets the 95 % interval of the group's own b, * where b is pooled"
    )
    command = f"hacscale resume {shlex.quote(location)}"
    console.print(
        f"these widths stand for the choice of the result, and it is trained, by:\n  {command}",
        soft_wrap=True,
    )


def _exponent(predictor: ImportancePredictor) -> str:
    star = "*" if predictor.flag else ""
    if predictor.b_low is None or predictor.b_high is None:
        return f"{predictor.b:.2f}{star}"
    return f"{predictor.b:.2f}{star} [{predictor.b_low:.2f}, {predictor.b_high:.2f}]"
