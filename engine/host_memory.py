"""How much memory this machine has."""

import os
from pathlib import Path

_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of control groups of version 2 and 1."""


def host_memory() -> int:
    """Returns the bytes of the machine, or what its control group limits a container to."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        text = limit.read_text().strip() if limit.exists() else ""
        if text.isdigit():  # "max" where there is none
            found = min(found, int(text))
    return found
