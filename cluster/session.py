"""The Ray session of a run: a private local one, or a cluster that is there already."""

import logging
import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

# Read by Ray at import.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# The end of a training is noticed at the next health check.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import ray
from ray.exceptions import AuthenticationError

import cluster
import engine
import searchers
import trainables
from engine.errors import UserError

_PACKAGES = (cluster, engine, searchers, trainables)

_CONNECT_SECONDS = 10.0
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535


class Session:
    """Starts Ray when it is first needed, and stops it at the end.

    A run whose stages are all complete never needs it.
    """

    def __init__(self, address: str | None, logs: Path) -> None:
        self._address = address
        self._logs = logs
        self._handler: logging.Handler | None = None
        self._started = False

    def start(self) -> None:
        """Starts or joins Ray, once.

        Raises:
            UserError: nobody answers at the address, or Ray cannot start.
        """
        if self._started:
            return
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._send_chatter_to_file()
            if self._address is None:
                _add_to_python_path(os.getcwd())
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            else:
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    runtime_env={"py_modules": list(_PACKAGES)},
                )
        except AuthenticationError as error:
            raise UserError(
                f"the Ray cluster at {self._address} asks for a token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            where = f"join Ray at {self._address}" if self._address else "start Ray"
            why = " ".join(str(error).split())
            raise UserError(f"cannot {where}: {why[:300]}") from error
        self._started = True

    def require(self, cpus: int, gpus: int) -> None:
        """Checks what Ray has in all.

        Raises:
            UserError: fewer CPUs or GPUs than that.
        """
        total = ray.cluster_resources()
        for kind, needed in (("CPU", cpus), ("GPU", gpus)):
            if total.get(kind, 0) < needed:
                raise UserError(
                    f"the recipe needs {needed} {kind}s at once, but Ray has "
                    f"{total.get(kind, 0):g}; lower cluster.final_workers, cluster.cpus_per_trial, "
                    "cluster.gpus_per_trial or device.threads, or set device.accelerator"
                )

    def stop(self) -> None:
        """Leaves Ray; a private session ends with it."""
        if self._started:
            ray.shutdown()
            self._started = False
        if self._handler is not None:
            self._handler.close()

    def _send_chatter_to_file(self) -> None:
        self._handler = handler = logging.FileHandler(self._logs / "ray.log", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False


@contextmanager
def session(address: str | None, logs: Path) -> Generator[Session]:
    """A session that is stopped whatever happens.

    A cluster is joined at once: what is wrong with it shows before any work is done.

    Raises:
        UserError: the cluster cannot be joined, or the working directory hides our packages.
    """
    _check_directory()
    current = Session(address, logs)
    try:
        if address is not None:
            _check_answer(address)
            current.start()
        yield current
    finally:
        current.stop()


def _check_directory() -> None:
    """Workers look for packages in the working directory first, as ``python -m`` would."""
    for package in _PACKAGES:
        ours = Path(next(iter(package.__path__)))
        for found in (Path.cwd() / ours.name, Path.cwd() / f"{ours.name}.py"):
            if found.exists() and not found.samefile(ours):
                raise UserError(
                    f"{found} has the name of a package of hacscale and would hide it; start from "
                    "another directory"
                )


def _add_to_python_path(directory: str) -> None:
    """Lets local workers find user code in ``directory``, as ``python -m`` would.

    Through the environment and not Ray's ``runtime_env``, which would make the workers that Ray
    has started ahead useless.
    """
    paths = [directory, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _check_answer(address: str) -> None:
    """Fails in seconds, not minutes, if nobody listens at HOST:PORT."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise UserError(f"--address takes auto or HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"nobody answers at {address} ({error}); is the cluster up and the port open?"
        ) from None
