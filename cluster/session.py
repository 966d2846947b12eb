"""The Ray session of a run: a private local one, or a cluster that is there already."""

import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

# Read by Ray at import.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A module of the user's finds files where the driver does.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# A training that ends without an accuracy ends that trial, and not the stage.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# The end of a training is noticed at the next health check.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import ray
from ray.exceptions import AuthenticationError

from cluster.address import CLIENT, check_cluster, token_error
from cluster.code import add_to_python_path, check_directory, travelling_code
from cluster.signals import signals_kept
from engine.errors import UserError
from engine.recipe import Cluster, Device, Recipe

_STARTS = 3
_STARTING_SECONDS = 300.0
"""Nodes of a cluster that was just started have joined it by then."""
_POLL_SECONDS = 5.0
_REMEDY = (
    "lower cluster.final_workers, cluster.cpus_per_trial or device.threads; without GPUs set "
    "cluster.gpus_per_trial=0 device.accelerator=cpu"
)
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the driver of a job, whose code has travelled with it."""


class Session:
    """Starts Ray when it is first needed, and stops it at the end.

    A run whose stages are all complete never needs it.
    """

    def __init__(self, address: str | None, logs: Path) -> None:
        self._address = address
        self._logs = logs
        self._quiet = ExitStack()
        self._started = False
        self._joined = address is not None and ray.is_initialized()
        """Whether this process is a worker of the cluster itself, as behind ``ray://``."""

    def start(self) -> None:
        """Starts or joins Ray, once.

        Raises:
            UserError: nobody answers at the address, or Ray cannot start.
            KeyboardInterrupt: the process was told to stop.
        """
        if self._started:
            return
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._send_chatter_to_file()
            with signals_kept():
                self._init()
        except AuthenticationError as error:
            raise token_error(self._address or "this machine") from error
        except Exception as error:  # a slow start is a plain Exception to Ray
            where = f"join Ray at {self._address}" if self._address else "start Ray"
            why = " ".join(str(error).split())
            raise UserError(f"cannot {where}: {why[:300]}") from error
        self._started = True

    def _init(self) -> None:
        if self._joined:
            return
        init = partial(ray.init, log_to_driver=False, logging_level=logging.WARNING)
        if self._address is None:
            add_to_python_path(os.getcwd())
            _patiently(partial(init, address="local", include_dashboard=False))
        elif _JOB in os.environ:
            init(address=self._address)
        else:
            with travelling_code() as folder:
                init(address=self._address, runtime_env={"working_dir": str(folder)})

    def require(self, recipe: Recipe, tell: Callable[[str], None]) -> None:
        """Checks that Ray has what one training or measurement of a recipe needs.

        Nodes of a cluster that has just been started are waited for.

        Args:
            tell: is told what is waited for.

        Raises:
            UserError: it has less, and would wait forever.
        """
        until = time.monotonic() + (_STARTING_SECONDS if self._address else 0.0)
        told = False
        while lack := _lack(recipe):
            if time.monotonic() >= until:
                raise UserError(f"{lack}; {_REMEDY}")
            if not told:
                tell(f"  {lack}: waiting {_STARTING_SECONDS:.0f} s for nodes that may be starting")
            told = True
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Leaves Ray; a private session ends with it."""
        if self._started and not self._joined:
            ray.shutdown()
        self._started = False
        self._quiet.close()

    def _send_chatter_to_file(self) -> None:
        handler = _Chatter(self._logs / "ray.log", delay=True)
        self._quiet.callback(handler.close)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logger = logging.getLogger(name)
            # A handler that is closed opens its file anew, in a folder that may be gone.
            self._quiet.callback(setattr, logger, "handlers", logger.handlers)
            self._quiet.callback(setattr, logger, "propagate", logger.propagate)
            logger.handlers = [handler]
            logger.propagate = False


class _Chatter(logging.FileHandler):
    """A log that may be lost: on a full disk it is the run that says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Prints nothing."""

    def close(self) -> None:
        """Closes the file, whatever of it could not be written."""
        with suppress(OSError):
            super().close()


def _lack(recipe: Recipe) -> str:
    """Returns what Ray has too little of for a recipe, "" if it has enough."""
    resources, device = recipe.cluster, recipe.device
    if lack := lacking_workers(resources):
        return lack
    training = {"CPU": resources.cpus_per_trial, "GPU": resources.gpu_share}
    lack = lacking_node("training", training)
    # That the device's node is not there at all is said when it is to be measured.
    there = (device.node_resource or "CPU") in ray.cluster_resources()
    if not lack and device.place != "offline" and there:
        lack = lacking_node("measurement", bundle_of(device))
    return lack


def lacking_workers(resources: Cluster) -> str:
    """Returns what Ray has too little of for the final training, "" if it has enough.

    Where no node has all of one worker's, `lacking_node` says so.
    """
    total = ray.cluster_resources()
    workers = resources.final_workers_min or resources.final_workers
    of_all = {
        "CPU": workers * resources.cpus_per_trial,
        "GPU": workers * int(resources.uses_gpus),
    }
    for kind, needed in of_all.items():
        if total.get(kind, 0) < needed:
            return (
                f"the recipe needs {needed} {kind}{'s' if needed > 1 else ''} at once, but Ray "
                f"has {total.get(kind, 0):g}"
            )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    worker = {"CPU": resources.cpus_per_trial, "GPU": int(resources.uses_gpus)}
    places = sum(_fits(worker, node) for node in nodes)
    if 0 < places < workers:
        needs = ", ".join(f"{amount} {kind}" for kind, amount in worker.items() if amount)
        return (
            f"the recipe needs {workers} workers of {needs} at once, but the nodes of Ray have "
            f"room for {places}"
        )
    return ""


def bundle_of(device: Device) -> dict[str, float]:
    """Returns what a measurement of a device books."""
    bundle = {"CPU": float(device.threads), "GPU": float(device.accelerator == "cuda")}
    return bundle | ({device.node_resource: 1.0} if device.node_resource else {})


def what_is_free(bundle: Mapping[str, float]) -> str:
    """Returns how much of what a bundle needs is free, for the message that something waits.

    Others hold the rest; or nobody does, after a driver was killed just as it began a final
    training: Ray then keeps what the workers were to have until the cluster ends.
    """
    free, whole = ray.available_resources(), ray.cluster_resources()
    kinds = [kind for kind, amount in bundle.items() if amount]
    told = ", ".join(f"{free.get(kind, 0):g} of {whole.get(kind, 0):g} {kind}" for kind in kinds)
    return f"which has {told} free; `ray status` says what others hold"


def lacking_node(what: str, bundle: Mapping[str, float]) -> str:
    """Returns that no node has all of a bundle, for which Ray would wait for ever; "" if one has.

    Args:
        what: that is to run there, for the message.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= amount for kind, amount in bundle.items()) for node in nodes):
        return ""
    needs = ", ".join(f"{amount:g} {kind}" for kind, amount in bundle.items() if amount)
    return f"one {what} of the recipe needs {needs} on one node, which no node of Ray has"


def _fits(bundle: Mapping[str, int], node: Mapping[str, float]) -> int:
    """How many workers with these resources a node holds."""
    return min(int(node.get(kind, 0) // amount) for kind, amount in bundle.items() if amount)


def _patiently(start: Callable[..., object]) -> None:
    """Starts Ray, which gives up after 30 s: on a busy machine what it began helps the next try."""
    for left in reversed(range(_STARTS)):
        try:
            start()
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


@contextmanager
def session(address: str | None, logs: Path) -> Generator[Session]:
    """A session that is stopped whatever happens.

    A cluster is joined at once: what is wrong with it shows before any work is done.

    Raises:
        UserError: the cluster cannot be joined, or the working directory hides our packages.
    """
    check_directory()
    current = Session(address, logs)
    try:
        if address is not None:
            check_cluster(address)
            if address.startswith(CLIENT) and not ray.is_initialized():
                raise UserError(
                    f"{CLIENT} is for run and resume alone; give this command the HOST:PORT of the "
                    "cluster, on a machine that reaches it"
                )
            current.start()
        yield current
    finally:
        current.stop()
