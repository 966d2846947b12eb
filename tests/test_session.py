"""What Ray must have for a recipe, on clusters that are told and not there."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import cluster.session
from cluster.session import Session
from engine.errors import UserError
from engine.recipe import Recipe, override
from engine.recipes import RECIPES

CPU_ONLY = ["cluster.final_workers=2", "cluster.cpus_per_trial=1"]


def recipe(*settings: str) -> Recipe:
    return override(RECIPES["digits-vgg11"](), [*CPU_ONLY, *settings])


def require(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], asked: Recipe) -> None:
    """Asks whether a cluster of these nodes, and one more that is dead, is enough."""
    kinds = {kind for node in nodes for kind in node}
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in kinds}
    told = [{"Alive": True, "Resources": node} for node in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0, "jetson": 1.0}}
    fake = SimpleNamespace(
        cluster_resources=lambda: total, nodes=lambda: [*told, dead], is_initialized=lambda: False
    )
    monkeypatch.setattr(cluster.session, "ray", fake)
    Session(None, Path()).require(asked, lambda _: None)


@pytest.mark.parametrize(
    ("nodes", "settings"),
    [
        ([{"CPU": 2.0}], ()),
        ([{"CPU": 1.0}, {"CPU": 1.0}], ()),
        ([{"CPU": 0.0}, {"CPU": 4.0}], ("device.threads=4",)),  # a head without cores
        ([{"CPU": 4.0, "GPU": 2.0}], ("cluster.gpus_per_trial=auto",)),
        ([{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], ("device.accelerator=cuda",)),
        ([{"CPU": 2.0}], ("device.place=offline", "device.threads=8")),
        ([{"CPU": 2.0}], ("device.place=node:jetson",)),  # which is missed when it is measured
        ([{"CPU": 2.0}, {"CPU": 4.0, "jetson": 1.0}], ("device.place=node:jetson",)),
    ],
)
def test_what_fits_is_taken(
    nodes: list[dict[str, float]], settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    require(monkeypatch, nodes, recipe(*settings))


def test_nodes_of_a_cluster_that_has_just_begun_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, said = [0.0], list[str]()

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def resources() -> dict[str, float]:
        return {"CPU": 2.0 if clock[0] >= 20 else 0.0}

    def nodes() -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": resources()}]

    fake = SimpleNamespace(cluster_resources=resources, nodes=nodes, is_initialized=lambda: False)
    monkeypatch.setattr(cluster.session, "ray", fake)
    told = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(cluster.session, "time", told)
    Session("auto", Path()).require(recipe(), said.append)
    assert clock[0] == 20
    assert len(said) == 1 and "waiting 300 s for nodes" in said[0]
    with pytest.raises(UserError, match="one measurement of the recipe needs 9 CPU"):
        Session("auto", Path()).require(recipe("device.threads=9"), said.append)
    assert clock[0] == 320


def test_what_ray_says_goes_to_the_file_of_its_session_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(init=lambda **_: None, shutdown=lambda: None, is_initialized=bool)
    monkeypatch.setattr(cluster.session, "ray", fake)
    logger = logging.getLogger("ray")
    before = logger.handlers, logger.propagate
    session = Session(None, tmp_path / "logs")
    session.start()
    logger.warning("of the session")
    session.stop()
    shutil.rmtree(tmp_path / "logs")
    logger.warning("of the next one")
    assert (logger.handlers, logger.propagate) == before
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([{"CPU": 1.0}], (), "needs 2 CPUs at once, but Ray has 1;"),
        ([{"CPU": 4.0}], ("cluster.gpus_per_trial=0.5",), "needs 2 GPUs at once, but Ray has 0;"),
        (
            [{"CPU": 4.0}, {"CPU": 4.0}],
            ("cluster.cpus_per_trial=3", "device.threads=8"),
            "one measurement of the recipe needs 8 CPU on one node",
        ),
        (
            [{"CPU": 4.0}, {"CPU": 4.0}],
            ("cluster.cpus_per_trial=4", "cluster.final_workers=1", "device.threads=5"),
            "one measurement of the recipe needs 5 CPU on one node",
        ),
        (
            [{"CPU": 6.0}, {"CPU": 6.0}],
            ("cluster.cpus_per_trial=4", "cluster.final_workers=3"),
            "needs 3 workers of 4 CPU at once, but the nodes of Ray have room for 2;",
        ),
        (
            [{"CPU": 32.0}, {"CPU": 16.0, "GPU": 4.0}],
            (
                *("cluster.cpus_per_trial=8", "cluster.final_workers=4"),
                "cluster.gpus_per_trial=auto",
            ),
            "needs 4 workers of 8 CPU, 1 GPU at once, but the nodes of Ray have room for 2;",
        ),
        (
            [{"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}],
            ("cluster.cpus_per_trial=3",),
            "one training of the recipe needs 3 CPU on one node",
        ),
        (
            [{"CPU": 4.0}, {"CPU": 1.0, "jetson": 1.0}],
            ("device.place=node:jetson", "device.threads=2"),
            "one measurement of the recipe needs 2 CPU, 1 jetson on one node",
        ),
    ],
)
def test_what_would_wait_for_ever_is_refused_with_the_remedy(
    nodes: list[dict[str, float]],
    settings: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError) as refused:
        require(monkeypatch, nodes, recipe(*settings))
    assert message in str(refused.value)
    assert "cluster.gpus_per_trial=0 device.accelerator=cpu" in str(refused.value)
