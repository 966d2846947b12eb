"""Hosts with addresses of their own on one machine: network namespaces behind a bridge.

Needs root. The disk is shared, as it is over NFS; every host has its own interfaces, ports and
processes of Ray, and can be cut off from the others.
"""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_NET = "10.213.77"
_PORT = 6379
_BRIDGE = "hsbridge"
_START_S = 120.0


class Hosts:
    """A Ray cluster whose head is this machine, at an address of the bridge.

    Attributes:
        address: of the cluster.
    """

    def __init__(self, cpus: int, logs: Path) -> None:
        self.address = f"{_NET}.1:{_PORT}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = logs
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NET}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        self._start("head", [], ["--head", f"--port={_PORT}", "--include-dashboard=false"], 1, cpus)

    def add(self, name: str, cpus: int) -> None:
        """Adds a host of that name, and waits until it is in the cluster."""
        number = len(self._processes) + 1
        _ip("netns", "add", name)
        _ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"v{name}", "master", _BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{_NET}.{number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        prefix = ["ip", "netns", "exec", name]
        self._start(name, prefix, [f"--address={self.address}"], number, cpus)

    def cut_off(self, name: str) -> None:
        """Takes the cable out: all goes on on both sides, and neither hears of the other."""
        _ip("link", "set", f"v{name}", "down")

    def is_on(self, process: int, name: str) -> bool:
        """Whether a process runs on a host."""
        try:
            return os.readlink(f"/proc/{process}/ns/net") == os.readlink(
                f"/proc/{self._processes[name].pid}/ns/net"
            )
        except OSError:  # it is no more
            return False

    def close(self) -> None:
        """Ends all processes and takes the network away."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in self._processes:
            if name != "head":
                _ip("netns", "delete", name)
        _ip("link", "delete", _BRIDGE)

    def _start(
        self, name: str, prefix: list[str], words: list[str], number: int, cpus: int
    ) -> None:
        log = self._logs / f"{name}.log"
        self._processes[name] = subprocess.Popen(
            [
                *(*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
                *(*words, f"--node-ip-address={_NET}.{number}", f"--num-cpus={cpus}"),
                "--object-store-memory=200000000",
            ],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            # Nobody else is on the bridge; drivers that Ray was loaded into have no token.
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        latest = time.monotonic() + _START_S
        while b"Ray runtime started" not in log.read_bytes():
            if self._processes[name].poll() is not None or time.monotonic() > latest:
                raise RuntimeError(f"{name} does not start:\n{log.read_text()}")
            time.sleep(0.5)


@contextmanager
def hosts(cpus: int, logs: Path) -> Generator[Hosts]:
    """Makes the head with so many CPU cores, and ends it all."""
    made = Hosts(cpus, logs)
    try:
        yield made
    finally:
        made.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
