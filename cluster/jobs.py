"""Searches as jobs of a Ray cluster: they go on when the machine that sent them is switched off."""

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_fixed

from cluster.address import check_job_server, token_error
from cluster.code import travelling_code
from engine.errors import UserError

T = TypeVar("T")

_ENTRYPOINT = "exec python -c 'from engine.cli import main; main()'"
"""``exec``, so that the signal that stops the job reaches the driver and not a shell."""

_STOP_SECONDS = 120
"""Time that a job has to write its checkpoints before it is killed."""

_POLL_SECONDS = 1.0
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
_UP_SECONDS = 60.0
_once_it_is_up = retry(
    retry=retry_if_exception_message(match="(?s).*No available agent"),
    stop=stop_after_delay(_UP_SECONDS),
    wait=wait_fixed(_POLL_SECONDS),
    reraise=True,
)
"""Tries again while a cluster has just begun: its job server answers before it can start a job."""

_NOT_FOUND = re.compile(r"status code 404|does not exist", re.IGNORECASE)


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its job server, ``http://HOST:PORT``.

    Raises:
        UserError: no job server answers there, it asks for a token, or the packages that talk to
            it are not installed.
    """

    def __init__(self, address: str) -> None:
        check_job_server(address)
        logging.disable(logging.INFO)  # Ray tells of every file that it packs
        self._address = address
        # Ray would take these for what is given here.
        for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(variable, None)
        with self._mendable():
            self._client = JobSubmissionClient(address)

    def submit(self, words: Sequence[str], files: Mapping[str, bytes], name: str) -> str:
        """Starts ``hacscale WORDS`` on the cluster with the code and user modules of here.

        Args:
            files: beside the code in the directory where the job starts.
            name: of the run, from which the job gets its own.

        Returns:
            The name of the job.
        """
        job = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        with travelling_code(files) as folder, self._mendable():
            return _once_it_is_up(self._client.submit_job)(
                entrypoint=f"{_ENTRYPOINT} {shlex.join(words)}",
                submission_id=job,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)},
                },
            )

    def details(self, job: str) -> JobDetails:
        """Returns what the cluster knows of a job.

        Raises:
            UserError: there is no such job.
        """
        return self._of(job, lambda: self._client.get_job_info(job))

    def logs(self, job: str) -> str:
        """Returns what a job has printed.

        Raises:
            UserError: there is no such job.
        """
        return self._of(job, lambda: self._client.get_job_logs(job))

    def follow(self, job: str, show: Callable[[str], None]) -> None:
        """Shows what a job has printed and prints, until it ends.

        Raises:
            UserError: there is no such job.
        """
        self.details(job)

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                show(text)

        with self._mendable():
            asyncio.run(tail())

    def stop(self, job: str) -> JobDetails:
        """Asks a job to stop in order, and waits until it has.

        Raises:
            UserError: there is no such job.
        """
        self._of(job, lambda: self._client.stop_job(job))
        latest = time.monotonic() + _STOP_SECONDS + 30
        while (details := self.details(job)).status not in _ENDED and time.monotonic() < latest:
            time.sleep(_POLL_SECONDS)
        return details

    def _of(self, job: str, ask: Callable[[], T]) -> T:
        try:
            with self._mendable():
                return ask()
        except UserError as error:
            if _NOT_FOUND.search(str(error)):
                known = sorted(found.submission_id or "" for found in self._client.list_jobs())
                raise UserError(
                    f"there is no job {job!r} at {self._address}; known: "
                    f"{', '.join(filter(None, known)) or 'none'}"
                ) from None
            raise

    @contextmanager
    def _mendable(self) -> Generator[None]:
        """Turns what Ray raises into one line."""
        try:
            yield
        except AuthenticationError as error:
            raise token_error(self._address, "job server") from error
        except (OSError, RuntimeError, ValueError, requests.RequestException) as error:
            why = " ".join(str(error).split())[:300]
            if "ray[default]" in why:
                why = "packages are missing; install them with `pip install 'hacscale[cluster]'`"
            raise UserError(f"the job server at {self._address}: {why}") from error
