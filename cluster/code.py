"""The code that travels to a cluster: this program's packages and the user's modules."""

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cluster
import engine
import searchers
import trainables
from engine.errors import UserError

PACKAGES = tuple(
    Path(next(iter(package.__path__))) for package in (cluster, engine, searchers, trainables)
)
"""Where the packages of this program lie."""

_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@contextmanager
def travelling_code(files: Mapping[str, bytes] | None = None) -> Generator[Path]:
    """A folder to be Ray's ``working_dir``, which stands before installed packages on workers.

    It holds the packages of this program, and the modules and packages at the top of the present
    directory, where a recipe's ``package.module:function`` is found.

    Args:
        files: further files of the folder by name.

    Raises:
        UserError: the present directory cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="hacscale-") as folder:
        stage = Path(folder)
        try:
            for source in (*_user_code(Path.cwd()), *PACKAGES):
                _copy(source, stage / source.name)
        except (OSError, shutil.Error) as error:
            raise UserError(f"cannot copy the code of {Path.cwd()}: {str(error)[:300]}") from None
        for name, data in (files or {}).items():
            (stage / name).write_bytes(data)
        yield stage


def check_directory() -> None:
    """Workers look for packages in the working directory first, as ``python -m`` would.

    A clone of this project is no such directory as long as it is what was installed.

    Raises:
        UserError: the working directory hides our packages.
    """
    for ours in PACKAGES:
        for found in (Path.cwd() / ours.name, Path.cwd() / f"{ours.name}.py"):
            # Python takes any package on its path before a folder that is none.
            hides = found.is_file() or (found / "__init__.py").is_file()
            if hides and not found.samefile(ours) and _modules(found) != _modules(ours):
                raise UserError(
                    f"{found} has the name of a package of hacscale and would hide it; rename it, "
                    "start from another directory, or, if it is a clone of hacscale, install that "
                    "(pip install -e .)"
                )


def _modules(package: Path) -> dict[Path, bytes]:
    return {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}


def add_to_python_path(directory: str) -> None:
    """Lets local workers find user code in ``directory``, as ``python -m`` would.

    Through the environment and not Ray's ``runtime_env``, which would make the workers that Ray
    has started ahead useless.
    """
    paths = [directory, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _user_code(directory: Path) -> list[Path]:
    ours = {package.name for package in PACKAGES}
    return [
        path
        for path in sorted(directory.iterdir())
        if path.name not in ours
        and (path.suffix == ".py" or (path / "__init__.py").is_file())
        and not path.name.startswith(".")
    ]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_NOT_CODE)
    else:
        shutil.copy(source, target)
