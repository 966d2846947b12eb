"""A cluster that is there already: token, jobs, Ray Client, the look at every node.

Against a real ``ray start --head``, which takes minutes in all; `make test` leaves it out.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.address import check_cluster, check_job_server
from engine.errors import UserError

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).parents[1]
TINY = [
    "device.runtime=synthetic", "width=0.0625", "data.train_images=200", "train.epochs=200",
    "cluster.final_workers=1",
]  # fmt: skip


@dataclass(frozen=True)
class Head:
    gcs: str
    jobs: str
    client: str


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """``ray start --head`` with ports of its own; the environment has its token."""
    log = tmp_path_factory.mktemp("head") / "log"
    gcs, jobs, client, agent = free_ports(4)
    sockets = Path(f"/tmp/hs{os.getpid()}")  # names of sockets are short
    sockets.mkdir()
    words = [
        *("start", "--head", "--block", "--num-cpus=2", "--object-store-memory=300000000"),
        *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}"),
        *(f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1"),
        # By default a fixed one, which another Ray on this machine may have: then no job starts.
        f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={sockets}",
    ]
    with environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_TMPDIR=str(sockets),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job's own `python`
        PYTHONPATH=str(ROOT),
    ):
        started = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(f"http://127.0.0.1:{jobs}", client)
            yield Head(
                gcs=f"127.0.0.1:{gcs}",
                jobs=f"http://127.0.0.1:{jobs}",
                client=f"ray://127.0.0.1:{client}",
            )
        finally:
            started.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                started.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def _wait_for(job_server: str, client: int) -> None:
    latest = time.monotonic() + 120
    while True:
        try:
            check_job_server(job_server)
            socket.create_connection(("127.0.0.1", client), timeout=1).close()
            return
        except (UserError, OSError):
            if time.monotonic() > latest:
                raise
            time.sleep(0.5)


def hacscale(*words: str) -> tuple[int, str]:
    """Exit code, and all that is said."""
    done = subprocess.run(
        [sys.executable, "-c", "from engine.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


def test_no_token_is_one_line(head: Head) -> None:
    with environment(RAY_AUTH_MODE="disabled"):
        for address in (head.gcs, head.client):
            with pytest.raises(UserError, match=f"{address} asks for a token; set RAY_AUTH_MODE"):
                check_cluster(address)
        code, said = hacscale("status", "x", "--address", head.jobs)
    assert code == 2, said
    assert said.startswith(f"hacscale: the Ray job server at {head.jobs} asks for a token")
    assert len(said.splitlines()) == 1


def test_another_token_is_one_line(head: Head) -> None:
    with environment(RAY_AUTH_TOKEN=secrets.token_hex(32)):
        for address in (head.gcs, head.client):
            with pytest.raises(UserError, match="does not take the token of this machine"):
                check_cluster(address)
        code, said = hacscale("status", "x", "--address", head.jobs)
    assert code == 2, said
    assert "does not take the token" in said


def test_a_search_is_a_job_that_is_watched_and_stopped_in_order(head: Head, tmp_path: Path) -> None:
    where = ("--address", head.jobs)
    runs = tmp_path / "runs"
    recipe = ("digits-vgg11", "--name", "mine", "--runs-dir", str(runs), "--set", *TINY)
    code, said = hacscale("submit", *recipe, *where)
    assert code == 0, said
    job = re.match("(mine-[0-9]{8}-[0-9]{6}) runs on the cluster", said)
    assert job is not None, said
    latest = time.monotonic() + 240
    while not list((runs / "mine" / "checkpoints").glob("*.pt")):
        assert time.monotonic() < latest, hacscale("logs", job[1], *where)
        time.sleep(0.5)

    code, said = hacscale("status", job[1], *where)
    assert (code, said.splitlines()[0]) == (0, f"{job[1]}: running")
    code, said = hacscale("stop", job[1], *where)
    assert (code, said.splitlines()[0]) == (0, f"{job[1]}: stopped")
    code, said = hacscale("logs", job[1], *where)
    assert code == 0
    assert "✓ data: scikit-learn digits" in said
    assert f"hacscale resume {runs / 'mine'}" in said
    assert "Traceback" not in said
    kept = [path.read_bytes() for path in runs.rglob("*") if path.is_file()]
    assert not any(os.environ["RAY_AUTH_TOKEN"].encode() in data for data in [said.encode(), *kept])

    code, said = hacscale("logs", "none", *where)
    assert (code, said) == (
        2, f"hacscale: there is no job 'none' at {head.jobs}; known: {job[1]}\n"
    )  # fmt: skip


def test_ray_client_runs_a_command_on_the_cluster(head: Head, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    code, said = hacscale("resume", "mine", "--runs-dir", nowhere, "--address", head.client)
    assert code == 2, said
    assert f"there is no run 'mine' in {nowhere}" in said


def test_the_doctor_looks_at_every_node(head: Head, tmp_path: Path) -> None:
    code, said = hacscale("doctor", "--address", head.gcs, "--runs-dir", str(tmp_path))
    assert code == 0, said
    assert "shared storage" in said
    assert not list(tmp_path.iterdir())
