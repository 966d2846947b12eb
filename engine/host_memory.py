"""How much memory this machine has."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MEMBERSHIPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def host_memory() -> int:
    """Returns the bytes of the machine, or what a control group of this process is limited to."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):  # no control groups
        for limit in _limits(_MEMBERSHIPS.read_text(), _GROUPS):
            with suppress(OSError):  # a container may not see the groups that it is in
                text = limit.read_text().strip()
                if text.isdigit():  # "max" where there is none
                    found = min(found, int(text))
    return found


def _limits(memberships: str, groups: Path) -> Iterator[Path]:
    """The files that limit the groups of a process and those above, of version 2 and 1."""
    yield groups / "memory.max"
    yield groups / "memory" / "memory.limit_in_bytes"
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for above in (group, *group.parents):
            yield above / name
            if above == root:
                break
