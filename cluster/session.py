"""The Ray session of a run: a private local one, or a cluster that is there already."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

# Read by Ray at import.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

import cluster
import engine
import searchers
import trainables
from engine.errors import UserError

_CONNECT_SECONDS = 10.0


class Session:
    """Starts Ray when it is first needed, and stops it at the end.

    A run whose stages are all complete never needs it.
    """

    def __init__(self, address: str | None, logs: Path) -> None:
        self._address = address
        self._logs = logs
        self._started = False

    def start(self) -> None:
        """Starts or joins Ray, once.

        Raises:
            UserError: nobody answers at the address, or Ray cannot start.
        """
        if self._started:
            return
        self._send_chatter_to_file()
        try:
            if self._address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    runtime_env={"env_vars": _python_path()},
                )
            else:
                _check_answer(self._address)
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    runtime_env={"py_modules": [cluster, engine, searchers, trainables]},
                )
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            where = f"join Ray at {self._address}" if self._address else "start Ray"
            why = " ".join(str(error).split())
            raise UserError(f"cannot {where}: {why[:200]}; check the address") from error
        self._started = True

    def stop(self) -> None:
        """Leaves Ray; a private session ends with it."""
        if self._started:
            ray.shutdown()
            self._started = False

    def _send_chatter_to_file(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self._logs / "ray.log", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False


@contextmanager
def session(address: str | None, logs: Path) -> Generator[Session]:
    """A session that is stopped whatever happens."""
    current = Session(address, logs)
    try:
        yield current
    finally:
        current.stop()


def _python_path() -> dict[str, str]:
    """Workers find user code beside the working directory, as ``python -m`` would."""
    paths = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def _check_answer(address: str) -> None:
    """Fails in seconds, not minutes, if nobody listens at HOST:PORT."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # "auto" or a name that Ray resolves itself
    if not port.isdigit():
        raise UserError(f"--address takes auto, HOST:PORT or ray://HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nobody answers at {address} ({error}); is the cluster up and the port open?"
        ) from None
