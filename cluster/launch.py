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
        user=getpass.getuser(),
    )


def write_launch(kind: str, launch: Launch, out: Path) -> None:
    """Writes the file that starts such a cluster.

    Raises:
        UserError: there is one of that name, or it cannot be written.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(render_launch(kind, launch))
    except FileExistsError:
        raise UserError(f"{out} is there already; give another --out") from None
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; give another --out"
        ) from None
