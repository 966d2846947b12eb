"""What a process is told before it trains."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, sys, torch
from torch import nn
from trainables.device import use_cpus

if sys.argv[1] == "kept":
    use_cpus(1)
images = torch.ones(64, 16, 96, 96)
network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(images).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(6):
    pages()  # the heap grows until a hole fits every block
print(statistics.median(pages() for _ in range(11)), torch.get_num_threads())
"""
"""Prints how many pages the system has to give for a step of a training; its blocks have 38 MB."""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux is told")
def test_freed_memory_stays_with_a_process_that_trains() -> None:
    kept, returned = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True
        ).stdout.split()
        for way in ("kept", "returned")
    )
    assert kept[1] == "1"
    assert float(returned[0]) > 50  # even where pages have 2 MB
    assert float(kept[0]) < float(returned[0]) / 10
