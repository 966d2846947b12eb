"""Addresses of Ray clusters, checked in seconds before anything waits for them."""

import os
import re
import socket
import subprocess
import sys
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import requests

from engine.errors import UserError

CLIENT = "ray://"
"""Scheme of Ray Client, which reaches a cluster from outside of its network."""

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535

_ASK_GCS = (
    "import sys; from ray._raylet import GcsClient; "
    "GcsClient(address=sys.argv[1]).check_alive([], timeout=5)"
)
_ASK_CLIENT_SERVER = """
import sys, grpc
from ray._private.grpc_utils import init_grpc_channel
channel = init_grpc_channel(sys.argv[1])
grpc.channel_ready_future(channel).result(timeout=5)
try:
    channel.unary_unary("/ray.rpc.RayletDriver/ClusterInfo")(b"", timeout=5)
except grpc.RpcError as error:  # an empty question has no answer, but one who is asked
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        sys.exit("AuthenticationError")
    if error.code() is not grpc.StatusCode.NOT_FOUND:
        raise
"""

Service: TypeAlias = Literal["cluster", "job server"]


def check_cluster(address: str) -> None:
    """Checks that a Ray cluster answers at ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        UserError: not an address, nobody listens there, what listens is no Ray cluster, or the
            cluster asks for a token.
    """
    if address == "auto":
        check_cluster(_found_here())
        return
    bare = address.removeprefix(CLIENT)
    host, _, port = bare.rpartition(":")
    if not host or not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise UserError(f"--address takes auto, HOST:PORT or {CLIENT}HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"nobody answers at {address} ({error}); is the cluster up and the port open?"
        ) from None
    if address == bare:
        _ask(address, bare, _ASK_GCS, "6379")
    else:
        _check_grpc()
        _ask(address, bare, _ASK_CLIENT_SERVER, "10001")


def check_job_server(address: str) -> None:
    """Checks that a Ray job server answers at ``http://HOST:PORT``.

    Raises:
        UserError: as for `check_cluster`.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address of a job server looks like http://HOST:8265, not {address!r}")
    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", timeout=_CONNECT_SECONDS)
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"nobody answers at {address} ({type(error).__name__}); is the cluster up, the port "
            "open and ray[default] installed on it?"
        ) from None
    if answer.status_code in (401, 403):
        return  # the client has the token and says what is wrong with it
    try:
        answer.json()["ray_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"what listens at {address} is no Ray job server; its port is 8265 if nobody chose "
            "another"
        ) from None


def token_error(address: str, service: Service = "cluster") -> UserError:
    """Returns the line for a cluster that asks for a token."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return UserError(
            f"the Ray {service} at {address} does not take the token of this machine; set "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to that of the cluster"
        )
    return UserError(
        f"the Ray {service} at {address} asks for a token; set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
    )


def _ask(address: str, bare: str, question: str, usual_port: str) -> None:
    """Asks in a process of its own: Ray waits 40 s for a port that is not its, and warns."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", question, bare],
            check=False,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        asked = None
    if asked is not None and asked.returncode == 0:
        return
    if asked is not None and "AuthenticationError" in asked.stderr:
        raise token_error(address)
    raise UserError(
        f"what listens at {address} does not answer as a Ray cluster; the port is {usual_port} if "
        "nobody chose another, and the version of Ray must be the same here and there"
    )


def _found_here() -> str:
    """Returns what Ray takes ``auto`` for: RAY_ADDRESS, or a cluster that runs on this machine."""
    from ray._private.services import get_ray_address_from_environment

    try:
        return get_ray_address_from_environment("auto", None)
    except ConnectionError:
        raise UserError(
            "--address auto finds no Ray cluster on this machine; start one with `ray start "
            "--head`, give its HOST:PORT, or leave --address out to use this machine alone"
        ) from None


def _check_grpc() -> None:
    try:
        import grpc  # noqa: F401  # pyright: ignore[reportMissingModuleSource, reportUnusedImport]
    except ImportError:
        raise UserError(
            f"{CLIENT} needs gRPC; install it with `pip install 'hacscale[cluster]'`"
        ) from None
