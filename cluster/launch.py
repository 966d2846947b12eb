"""Files that start a Ray cluster with a search on it, from templates."""

import getpass
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.errors import UserError

TEMPLATES = {
    "kuberay": "kuberay.yaml.j2",
    "ray-up": "ray-up.yaml.j2",
    "ray-up-onprem": "ray-up-onprem.yaml.j2",
    "slurm": "slurm.sh.j2",
}
"""Template by kind of cluster."""

_INSTANCES = (
    ("c5.large", 2, 0), ("c5.xlarge", 4, 0), ("c5.2xlarge", 8, 0), ("c5.4xlarge", 16, 0),
    ("c5.9xlarge", 36, 0), ("c5.18xlarge", 72, 0),
    ("g5.xlarge", 4, 1), ("g5.2xlarge", 8, 1), ("g5.4xlarge", 16, 1), ("g5.8xlarge", 32, 1),
    ("g5.16xlarge", 64, 1), ("g5.12xlarge", 48, 4), ("g5.24xlarge", 96, 4),
    ("g5.48xlarge", 192, 8),
)  # fmt: skip
"""Machines of AWS with their cores and GPUs, the smallest first."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9._/:@-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a cluster is to be.

    Attributes:
        name: of the cluster and of the run on it; lower-case, as Kubernetes wants it.
        recipe: a recipe that the image or the nodes have.
        workers: machines that train.
        cpus, gpus: of each of them.
        image: container image with hacscale[cluster].
    """

    name: str
    recipe: str
    workers: int
    cpus: int
    gpus: int
    image: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                "--name has at most 40 lower-case letters, digits and '-' and begins with a "
                f"letter, {self.name!r} does not"
            )
        for option, value in (("--recipe", self.recipe), ("--image", self.image)):
            if not _WORD.fullmatch(value):
                raise UserError(
                    f"{option} has letters, digits and any of ._/:@- only, not {value!r}"
                )
        for option, number, least in (
            ("--workers", self.workers, 1),
            ("--cpus-per-worker", self.cpus, 1),
            ("--gpus-per-worker", self.gpus, 0),
        ):
            if number < least:
                raise UserError(f"{option} must be at least {least}, not {number}")


def render_launch(kind: str, launch: Launch) -> str:
    """Returns the file that starts such a cluster.

    Args:
        kind: one of `TEMPLATES`.

    Raises:
        UserError: there are no such machines.
    """
    environment = Environment(
        loader=PackageLoader("cluster"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(TEMPLATES[kind]).render(
        name=launch.name,
        recipe=launch.recipe,
        workers=launch.workers,
        cpus=launch.cpus,
        gpus=launch.gpus,
        image=launch.image,
        ray_version=version("ray"),
        user=getpass.getuser() if kind == "ray-up-onprem" else None,
        instance=_instance(launch) if kind == "ray-up" else None,
    )


def _instance(launch: Launch) -> str:
    """The smallest machine of AWS that is enough for a worker."""
    for name, cpus, gpus in _INSTANCES:
        if cpus >= launch.cpus and gpus >= launch.gpus and bool(gpus) == bool(launch.gpus):
            return name
    raise UserError(
        f"ray-up knows no machine of AWS with {launch.cpus} cores and {launch.gpus} GPUs; lower "
        "--cpus-per-worker or --gpus-per-worker"
    )


def write_launch(kind: str, launch: Launch, out: Path) -> None:
    """Writes the file that starts such a cluster.

    Raises:
        UserError: there is one of that name, or it cannot be written.
    """
    text = render_launch(kind, launch)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{out} is there already; give another --out") from None
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; give another --out"
        ) from None
