"""Clusters that are there already: their addresses, and what travels to them."""

import socket
import threading
from collections.abc import Iterator
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
    monkeypatch.setattr("cluster.address._ANSWER_SECONDS", 1.0)
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


def test_auto_without_a_cluster_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray would wait for: nothing that runs here, or an address that is left over."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    with pytest.raises(UserError, match="--address auto finds no Ray cluster on this machine"):
        check_cluster("auto")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        left_over = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: left_over)
        with pytest.raises(UserError, match=f"nobody answers at {left_over}"):
            check_cluster("auto")
        monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
        monkeypatch.setenv("RAY_ADDRESS", left_over)
        with pytest.raises(UserError, match=f"nobody answers at {left_over}"):
            check_cluster("auto")


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
        (["--runs-dir", "/r", "--set", "profile.file=p.json"], "profile.file p.json is a path of"),
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


# Jobs ------------------------------------------------------------------------------------------


def test_a_cluster_that_has_just_begun_is_asked_again_and_no_other_error_is() -> None:
    from cluster.jobs import _once_it_is_up

    def answer(*errors: str):
        left = list(errors)

        def submit(**words: str) -> dict[str, str]:
            if left:
                raise RuntimeError(left.pop(0))
            return words

        patient = _once_it_is_up(submit)
        patient.retry.sleep = lambda _: None
        return patient(entrypoint="x")

    busy = "status code 500: No available agent to submit job, please try again later.."
    assert answer(busy, busy) == {"entrypoint": "x"}
    with pytest.raises(RuntimeError, match="no such package"):
        answer(busy, "no such package")
