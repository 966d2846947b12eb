"""What a signal to stop says at once, whoever handles it and whatever becomes of the process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.client import CALLED_BY
from cluster.signals import announced, told_to_stop
from engine.provenance import run_info
from engine.recipes import RECIPES
from engine.store import RunStore

ROOT = Path(__file__).parents[1]

# Ray's processes are in the group that gets the signal, and the driver may end with them.
DRIVER = """
import os, signal, sys, time
from argparse import Namespace
from rich.console import Console
from engine.commands.driving import orderly_stop

def end(*_):
    time.sleep(0.5)
    os._exit(1)

asked = Namespace(address="auto", max_cpu_hours=1.5, max_gpu_hours=None)
with orderly_stop(sys.argv[1], Console(), asked):
    if sys.argv[2] == "ends":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, end)
    print("works", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "how", "code", "last", "called_by"),
    [
        (signal.SIGTERM, "ends", 1, "hacscale resume", None),
        (signal.SIGINT, "ends", 1, "hacscale resume", "ray://head:10001"),
        (signal.SIGUSR1, "stops", 130, "stopped", None),
    ],
)
def test_the_command_to_go_on_is_said_before_the_driver_ends(
    number: signal.Signals, how: str, code: int, last: str, called_by: str | None, tmp_path: Path
) -> None:
    """With the address of who reads it: the driver on the cluster's head has another one."""
    run = tmp_path / "my run"
    RunStore(run).write_info(run_info("my run", "digits-vgg11", RECIPES["digits-vgg11"]()))
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(run), how],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | ({CALLED_BY: called_by} if called_by else {}),
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "works\n"
        os.killpg(driver.pid, number)
        said = driver.stdout.read().splitlines()
    assert driver.returncode == code
    assert said[:2] == ["stopping", "nothing is lost; go on with:"]
    address = called_by or "auto"
    assert said[2] == f"  hacscale resume '{run}' --address {address} --max-cpu-hours 1.5"
    assert said[-1].strip().startswith(last)


def test_it_is_announced_once_and_only_while_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with announced(lambda: heard.append(time.monotonic())):
            signal.raise_signal(signal.SIGCHLD)
            time.sleep(0.05)
            assert not heard
            for _ in range(3):
                signal.raise_signal(signal.SIGUSR1)
            time.sleep(0.2)
            assert len(heard) == 1
        signal.raise_signal(signal.SIGUSR1)
        assert len(heard) == 1
        with announced(lambda: heard.append(0)):
            pass
        assert len(heard) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_somebody_else_swallows_is_known_afterwards() -> None:
    """As Tune's own handler does while Tune ends its workers."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with announced(lambda: None):
            assert not told_to_stop()
            signal.raise_signal(signal.SIGINT)
            deadline = time.monotonic() + 5
            while not told_to_stop() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert told_to_stop()
        with announced(lambda: None):
            assert not told_to_stop()
    finally:
        signal.signal(signal.SIGINT, before)
