"""Drives a search behind ``ray://``: the driver is a task on the cluster's head.

Tune and Train are not made to be driven through Ray Client: every callback would have to travel.
So only the command travels, and what it prints comes back.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from cluster.address import check_cluster, token_error
from cluster.code import check_directory, travelling_code
from cluster.tasks import said_by
from engine.errors import UserError

CALLED_BY = "HACSCALE_CALLED_BY"
"""Environment variable of the driver: the address by which the user has reached it."""
_LAST_LINES_SECONDS = 3.0
_INTERRUPTED = 130


def drive(address: str, words: Sequence[str], files: Mapping[str, bytes]) -> int:
    """Runs ``hacscale WORDS`` on the cluster, shows what it prints, and returns its exit code.

    Ctrl-C stops it in order. It also ends when this process does; a job does not.

    Args:
        address: ``ray://HOST:PORT``.
        files: in the directory where the command starts, beside the code of here.

    Raises:
        UserError: the cluster cannot be joined, or the connection is lost.
    """
    check_directory()
    check_cluster(address)
    try:
        with travelling_code(files) as folder:
            ray.init(
                address,
                log_to_driver=True,
                logging_level=logging.WARNING,
                runtime_env={"working_dir": str(folder), "env_vars": {CALLED_BY: address}},
            )
        # On the head, which lives as long as the cluster; it waits and needs no core.
        driver = ray.remote(_drive).options(
            num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=0
        )
        task = driver.remote(list(words))
        try:
            return ray.get(task)
        except KeyboardInterrupt:
            ray.cancel(task)
            return ray.get(task)
        finally:
            time.sleep(_LAST_LINES_SECONDS)  # printed lines travel apart from the result
            ray.shutdown()
    except AuthenticationError as error:
        raise token_error(address) from error
    except RayTaskError as error:
        raise UserError(
            f"the driver on the cluster failed: {said_by(error)}; mend the cause and repeat the "
            "command, which goes on where it was"
        ) from error
    except (OSError, RuntimeError, ValueError, RayError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"cannot run through {address}: {why}; `hacscale submit` needs no standing connection"
        ) from error


def _drive(words: list[str]) -> int:
    from engine.cli import main

    try:
        main(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0
