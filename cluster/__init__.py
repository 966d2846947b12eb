"""Where it runs: the Ray session, the trials, the device, and the driver over the stages.

from cluster import run_search
from engine import RECIPES

record = run_search(RECIPES["digits-vgg11"](), Path("runs/digits"))
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.driver import read_run as read_run
    from cluster.driver import run_search as run_search


def __getattr__(name: str) -> object:
    # Late, because Ray and PyTorch take seconds, and cluster.session imports this package.
    if name not in ("read_run", "run_search"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cluster import driver

    return getattr(driver, name)
