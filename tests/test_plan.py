"""What a search is expected to take: by hand, for a recipe small enough to count."""

import random
from itertools import pairwise, product

import pytest

from cluster.hours import MaxHours
from cluster.packing import share_of
from cluster.plan import STAGES, Plan, Planned, StagePlan, makespan
from engine.errors import UserError
from engine.recipe import Recipe, override
from engine.recipes import RECIPES

PER_MAC = 1e-9
SETTINGS = [
    "width=0.0625", "data.train_images=200", "train.epochs=4", "train.batch_size=32",
    "alpha.training.epochs=3", "alpha.training.batch_size=32", "alpha.repeats=2",
    "alpha.trials=4", "alpha.batch=2",
    "sample.training.epochs=2", "sample.training.batch_size=32", "sample.networks=5",
]  # fmt: skip


def recipe(*more: str) -> Recipe:
    return override(RECIPES["digits-vgg11"](), [*SETTINGS, *more])


@pytest.fixture(scope="module")
def planned() -> Planned:
    return Planned(recipe())


def stages(plan: Plan) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in plan.stages}


def vgg11_macs(widths: list[int], side: int = 32) -> int:
    """Multiply-accumulates of VGG-11's convolutions and its one classifier, by hand."""
    sides = [side >> pools for pools in (0, 1, 2, 2, 3, 3, 4, 4)]
    convolutions = zip(pairwise([3, *widths]), sides, strict=True)
    return sum(9 * i * o * s * s for (i, o), s in convolutions) + widths[-1] * 10


def vgg11_params(widths: list[int]) -> int:
    """Its weights by hand: 3 × 3 convolutions, scale and shift of each channel, the classifier."""
    convolutions = sum(9 * i * o + 2 * o for i, o in pairwise([3, *widths]))
    return convolutions + (widths[-1] + 1) * 10


def test_the_base_network_takes_what_its_arithmetic_says(planned: Planned) -> None:
    plan = stages(planned.plan(PER_MAC, {"CPU": 8.0}, {}))["baseline"]
    widths = [c // 16 for c in (64, 128, 256, 256, 512, 512, 512, 512)]
    assert plan.macs == (vgg11_macs(widths),)
    # 200 images in whole batches of 32, forward and twice backward; 216 to validate; 2 workers.
    seconds = plan.macs[0] * 4 * (3 * 192 + 216) * PER_MAC / 2
    assert plan.seconds == pytest.approx([seconds])
    assert plan.elapsed_s == pytest.approx(seconds)
    assert plan.cpu_hours == pytest.approx(2 * seconds / 3600)
    assert (plan.gpu_hours, plan.per_gpu, plan.at_once) == (0, 0, 1)


def test_every_training_of_a_search_is_counted(planned: Planned) -> None:
    found = stages(planned.plan(PER_MAC, {"CPU": 8.0}, {}))
    assert tuple(found) == STAGES
    assert len(found["sample"].macs) == 5
    # α of 0.05, 0.35, 0.65 and 0.95 come to 32, 36, 40 and 44 px, 32·2^(α/2) to the nearest 4.
    assert len(found["alpha"].macs) == 2 * 4
    # Those of Algorithm 1, uniform widths, 1/C and the response surface, twice each.
    assert len(found["choose"].macs) == 4 * 2
    assert found["alpha"].at_once == min(4, len(found["alpha"].macs))  # a batch of 2 × 2 repeats
    assert found["sample"].at_once == 5
    assert found["sample"].elapsed_s == pytest.approx(max(found["sample"].seconds))


@pytest.mark.parametrize(
    ("cores", "per_trial", "at_once"), [(1.0, 1, 1), (3.0, 1, 3), (3.0, 2, 1), (8.0, 2, 4)]
)
def test_as_many_run_at_once_as_there_are_cores(cores: float, per_trial: int, at_once: int) -> None:
    plan = Planned(recipe(f"cluster.cpus_per_trial={per_trial}")).plan(PER_MAC, {"CPU": cores}, {})
    assert stages(plan)["sample"].at_once == at_once
    serial = sum(stages(plan)["sample"].seconds)
    assert serial / at_once <= stages(plan)["sample"].elapsed_s <= serial


def test_gpus_are_shared_as_measured_and_held_in_shares() -> None:
    planned = Planned(recipe("cluster.gpus_per_trial=auto"))
    total = {"CPU": 64.0, "GPU": 2.0}
    alone = stages(planned.plan(PER_MAC, total, {}))
    plan = planned.plan(PER_MAC, total, {"alpha": share_of(2), "sample": share_of(3)})
    shared = stages(plan)
    assert [alone[s].per_gpu for s in STAGES] == [1, 1, 1, 1, 1]
    assert [shared[s].per_gpu for s in STAGES] == [1, 2, 3, 1, 1]
    assert (alone["sample"].at_once, shared["sample"].at_once) == (2, 5)  # 6 fit
    assert (alone["alpha"].at_once, shared["alpha"].at_once) == (2, 4)
    assert shared["sample"].gpu_hours == pytest.approx(alone["sample"].gpu_hours / 3, rel=1e-3)
    assert shared["train"].gpu_hours == alone["train"].gpu_hours
    assert plan.packing_measured


def test_the_largest_network_of_a_stage_is_what_packing_is_measured_with(planned: Planned) -> None:
    for stage in ("alpha", "sample"):
        task = planned.largest(stage)
        sizes = [s.resolution**2 * sum(s.width_of.values()) for s in planned.trainings[stage][0]]
        assert task.spec.resolution**2 * sum(task.spec.width_of.values()) == max(sizes)
        assert task.training == planned.trainings[stage][1]


def test_candidates_for_the_limits_have_the_parameters_that_the_limits_allow() -> None:
    settings = ("alpha.candidates=limits", "alpha.budget=4", "limits.params=2x")
    wide = Planned(recipe(*settings, "limits.latency=99ms"))
    limit = 2 * vgg11_params([c // 16 for c in (64, 128, 256, 256, 512, 512, 512, 512)])
    found = set(wide.trainings["alpha"][0])
    assert len(found) == len({spec.resolution for spec in found}) > 2
    for spec in found:
        assert 0.95 * limit < vgg11_params([width for _, width in spec.widths]) <= limit


def test_a_limit_of_latency_as_a_ratio_is_one_of_compute() -> None:
    """Parameters are as good as free here, and candidates could be sixteen times the base."""
    settings = ("alpha.candidates=limits", "alpha.budget=4", "limits.params=100x")
    free = Planned(recipe(*settings, "limits.latency=99ms"))
    tight = Planned(recipe(*settings, "limits.latency=2x"))
    base = tight.graph.cost(tight.base).macs

    def macs(planned: Planned) -> list[float]:
        return [planned.graph.cost(spec).macs / base for spec in planned.trainings["alpha"][0]]

    assert max(macs(free)) > 10
    assert all(1.7 < share <= 2 for share in macs(tight))
    # Resolutions go up to √2 times the base's, and not to the 2 that s = 4 reaches.
    resolutions = {spec.resolution for spec in tight.trainings["alpha"][0]}
    assert max(resolutions) <= 46 < max(s.resolution for s in free.trainings["alpha"][0])


def test_where_latency_grows_less_than_macs_the_other_limits_tell_how_large_networks_get() -> None:
    limits = ("limits.latency=1.2x", "limits.params=2x")
    search = recipe("alpha.candidates=limits", "alpha.budget=4", *limits)
    near, far = (Planned(search, free_latency=free) for free in (False, True))
    resolutions = [
        {spec.resolution for spec in planned.trainings["alpha"][0]} for planned in (near, far)
    ]
    assert max(resolutions[0]) < 60 == max(resolutions[1])
    (answer,) = far.trainings["train"][0]
    params = [vgg11_params(list(spec.width_of.values())) for spec in (far.base, answer)]
    assert answer.resolution == 60
    assert 1.9 * params[0] < params[1] <= 2 * params[0]
    plans = [planned.plan(PER_MAC, {"CPU": 8.0}, {}) for planned in (near, far)]
    assert plans[1].hours("cpu") > 2 * plans[0].hours("cpu")


def test_trainings_that_are_fewer_than_gpus_are_planned_on_one_each(planned: Planned) -> None:
    many = planned.plan(PER_MAC, {"CPU": 64.0, "GPU": 64.0}, {"sample": share_of(8)})
    sample = next(stage for stage in many.stages if stage.stage == "sample")
    assert sample.per_gpu == 1
    assert sample.at_once == len(planned.trainings["sample"][0])


def test_what_is_kept_is_counted_in_bytes(planned: Planned) -> None:
    plan = planned.plan(PER_MAC, {"CPU": 2.0}, {})
    images = 200 + 216 + 359
    assert plan.data_bytes == images * (3 * 32 * 32 + 8)
    base = planned.graph.cost(planned.base).params * 4
    assert plan.store_bytes > 2 * base


def test_a_plan_above_the_ceiling_is_refused(planned: Planned) -> None:
    plan = planned.plan(PER_MAC, {"CPU": 2.0}, {})
    hours = plan.hours("cpu")
    assert hours == pytest.approx(sum(stage.cpu_hours for stage in plan.stages))
    plan.check(MaxHours(kind="cpu", hours=hours * 1.01))
    with pytest.raises(UserError, match=r"is expected to take .* CPU-hours, and --max-cpu-hours"):
        plan.check(MaxHours(kind="cpu", hours=hours * 0.99))


def test_the_makespan_is_that_of_the_worker_who_is_free_first() -> None:
    assert makespan([3, 2, 2, 1], 2) == 4  # 3 + 1 beside 2 + 2
    assert makespan([1.0], 5) == 1.0
    rng = random.Random(0)
    for workers, count in product((1, 2, 7), (1, 5, 40)):
        lengths = [rng.uniform(0.1, 9) for _ in range(count)]
        ends = [0.0] * workers
        for length in lengths:
            ends[ends.index(min(ends))] += length
        assert makespan(lengths, workers) == pytest.approx(max(ends))
