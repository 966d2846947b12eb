"""Clusters that are there already: addresses, tokens, jobs, Ray Client, the look at every node."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.address import check_cluster, check_job_server
from cluster.code import PACKAGES, travelling_code
from engine.cli import main
from engine.errors import UserError

ROOT = Path(__file__).parents[1]


# Whoever listens is no Ray ---------------------------------------------------------------------


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    """A server that answers, but not as Ray does."""
    with HTTPServer(("127.0.0.1", 0), _Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_port_that_is_not_rays_is_one_line(web: str, monkeypatch) -> None:
    monkeypatch.setattr("cluster.address._ANSWER_SECONDS", 8.0)
    with pytest.raises(UserError, match="does not answer as a Ray cluster; the port is 6379"):
        check_cluster(web)
    with pytest.raises(UserError, match="is no Ray job server; its port is 8265"):
        check_job_server(f"http://{web}")


def test_a_port_that_says_nothing_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr("cluster.address._CONNECT_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(UserError, match=r"nobody answers at .* \(ReadTimeout\)"):
            check_job_server(f"http://127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:8265", "ray://127.0.0.1:1", "http://", "ftp://h"]
)
def test_an_address_of_a_job_server_has_a_scheme(address: str) -> None:
    with pytest.raises(UserError, match="looks like http://HOST:8265"):
        check_job_server(address)


# What travels ----------------------------------------------------------------------------------


def test_the_code_that_travels_is_ours_and_the_users(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("x = 1")
    (tmp_path / "pack").mkdir()
    for name in ("__init__.py", "inner.py", "__pycache__", ".secret"):
        (tmp_path / "pack" / name).write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "picture.png").write_text("")
    monkeypatch.chdir(tmp_path)
    with travelling_code({"mine.yaml": b"a: 1"}) as folder:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        assert (folder / "mine.yaml").read_bytes() == b"a: 1"
    assert {"mine.py", "pack", "pack/__init__.py", "pack/inner.py", "mine.yaml"} <= found
    assert {package.name for package in PACKAGES} <= found
    assert "engine/report.html.j2" in found
    assert not {"runs", "picture.png", "pack/__pycache__", "pack/.secret"} & found
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--runs-dir", "runs"], "--runs-dir runs is a path of this machine"),
        (["--runs-dir", "/r", "--set", "data=imagefolder:here"], "is a path of this machine"),
        (["--runs-dir", "/r", "--set", "data=parquet:here"], "is a path of this machine"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["submit", "--address", "http://127.0.0.1:1"], ["run", "--address", "ray://127.0.0.1:1"]],
)
def test_paths_of_this_machine_do_not_travel(words, fragment, command, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command[0], "digits-vgg11", *command[1:], *words])
    assert ended.value.code == 2
    assert fragment in capsys.readouterr().err


# A cluster with a token ------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    gcs: str
    jobs: str
    client: str


def free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """``ray start --head`` with made-up ports; the environment has its token."""
    pytest.importorskip("aiohttp")
    folder = tmp_path_factory.mktemp("head")
    gcs, jobs, client = free_ports(3)
    words = [
        *("start", "--head", "--block", "--num-cpus=1", "--object-store-memory=100000000"),
        *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}"),
        *(f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1"),
    ]
    python = Path(sys.executable).parent
    with environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_TMPDIR=f"/tmp/hs{os.getpid()}",  # sockets have short names
        RAY_USAGE_STATS_ENABLED="0",
        PATH=f"{python}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
    ):
        with (folder / "log").open("w") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *words],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _wait_for(f"http://127.0.0.1:{jobs}")
            yield Head(
                gcs=f"127.0.0.1:{gcs}",
                jobs=f"http://127.0.0.1:{jobs}",
                client=f"ray://127.0.0.1:{client}",
            )
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)


def _wait_for(address: str) -> None:
    latest = time.monotonic() + 90
    while True:
        try:
            return check_job_server(address)
        except UserError:
            if time.monotonic() > latest:
                raise
            time.sleep(0.5)


def hacscale(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from engine.cli import main; main()", *words],
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.ray
@pytest.mark.slow
class TestCluster:
    def test_no_token_is_one_line(self, head: Head) -> None:
        with environment(RAY_AUTH_MODE="disabled"):
            for address in (head.gcs, head.client):
                with pytest.raises(UserError, match=f"{address} asks for a token; set RAY_AUTH"):
                    check_cluster(address)

    def test_another_token_is_one_line(self, head: Head) -> None:
        with environment(RAY_AUTH_TOKEN=secrets.token_hex(32)):
            for address in (head.gcs, head.client):
                with pytest.raises(UserError, match="does not take the token of this machine"):
                    check_cluster(address)
            refused = hacscale("status", "x", "--address", head.jobs)
        assert refused.returncode == 2
        assert "does not take the token" in refused.stderr

    def test_the_token_lets_in(self, head: Head) -> None:
        check_cluster(head.gcs)
        check_cluster(head.client)

    def test_a_job_runs_our_code_and_is_followed(self, head: Head) -> None:
        from cluster.jobs import Jobs

        jobs = Jobs(head.jobs)
        job = jobs.submit(["recipes"], {}, "mine")
        shown: list[str] = []
        jobs.follow(job, shown.append)
        assert "digits-vgg11" in "".join(shown)
        assert jobs.details(job).status == "SUCCEEDED"
        assert os.environ["RAY_AUTH_TOKEN"] not in jobs.logs(job)
        with pytest.raises(UserError, match=f"there is no job 'none' at {head.jobs}; known: {job}"):
            jobs.details("none")

    def test_ray_client_runs_a_command_on_the_cluster(self, head: Head) -> None:
        code = (
            "import sys; from cluster.client import drive; "
            f"sys.exit(drive({head.client!r}, sys.argv[1:], {{}}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "status", "nowhere", "--runs-dir", "/nonexistent"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "there is no run 'nowhere'" in done.stdout + done.stderr

    def test_the_doctor_looks_at_every_node(self, head: Head, tmp_path: Path) -> None:
        done = hacscale("doctor", "--address", head.gcs, "--runs-dir", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "shared storage" in done.stdout
        assert not list(tmp_path.iterdir())
