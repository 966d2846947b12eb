"""Recipes: named, from files and from --set; what is allowed and what is refused."""

import json
from argparse import Namespace
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import decode, digest, jsonable
from engine.commands.options import find_recipe, stated_limits
from engine.errors import UserError
from engine.limits import Limits
from engine.plain_yaml import load_yaml
from engine.recipe import (
    Allocate,
    Alpha,
    Choose,
    Cluster,
    Data,
    Device,
    Profile,
    Recipe,
    Sample,
    load_recipe,
    override,
)
from engine.recipes import RECIPES
from engine.training import FAST, TRAININGS, Training
from trainables.schedule import learning_rate

LIMITS = Limits(latency="2x", params="1.33x")
RECIPE = Recipe(limits=LIMITS)
COUNTS = {"trials", "repeats", "networks", "epochs", "batch", "batch_size", "threads", "calls"}


def refusal(text: str, tmp_path: Path) -> str:
    """What a recipe file of this text is refused with."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return refused_file(file)


def refused_file(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message or "training" in message
    return message


def refused_set(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        override(RECIPE, assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_limits_of_the_command_line_stand_in_for_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    arguments = Namespace(latency=None, latency_ms="8", params="2x", memory=None)
    asked = stated_limits(arguments)
    for text, memory in (("width: 0.5", None), ("limits:", None), ("limits: {memory: 2x}", "2x")):
        file.write_text(text)
        recipe, name = find_recipe(str(file), asked)
        assert recipe.limits == Limits(latency="8ms", params="2x", memory=memory)
        assert name == "mine"
    file.write_text("limits: 3")
    with pytest.raises(UserError, match="limits"):
        find_recipe(str(file), asked)


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_survives_a_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(jsonable(recipe)))  # JSON is YAML
    assert load_recipe(file) == recipe
    assert override(recipe, []) == recipe
    assert RECIPES[name].__doc__


def test_presets_of_the_paper_say_what_it_prints() -> None:
    """Section IV: 300 epochs, batch 128, 0.1 ÷10 at 100, 200, 250; ImageNet: 100, batch 1024."""
    for limits, latency, params in (("tight", "1.065x", "1.33x"), ("loose", "1.2x", "2.29x")):
        cifar = RECIPES[f"cifar10-vgg11-{limits}"]()
        assert (cifar.model, cifar.width, cifar.data.train_images) == ("vgg11", 1.0, None)
        assert cifar.limits == Limits(latency=latency, params=params)
        train = cifar.train
        assert (train.epochs, train.batch_size, train.momentum) == (300, 128, 0.9)
        times = {0.5: 0.1, 99.5: 0.1, 150: 0.01, 225: 1e-3, 299: 1e-4}
        assert [learning_rate(train, t) for t in times] == pytest.approx(list(times.values()))
        imagenet = RECIPES[f"imagenet-resnet18-{limits}"]()
        train = imagenet.train
        assert (imagenet.model, imagenet.data.resolution) == ("resnet18", 224)
        assert (train.epochs, train.batch_size, train.precision) == (100, 1024, "bfloat16")
        assert (train.label_smoothing, train.mixup, train.augment) == (0.1, 0.2, "autoaugment")
        assert train.swa_share > 0
        times = {2.5: 1.0, 5: 2 * 0.02**0.05, 75: 2 * 0.02**0.75}
        assert [learning_rate(train, t) for t in times] == pytest.approx(list(times.values()))
    assert RECIPES["imagenet-resnet18-tight"]().limits.latency == "1.006x"


def test_fast_and_small_presets_differ_from_the_papers_in_what_makes_them_cheap() -> None:
    for name in RECIPES:
        whole, _, form = name.rpartition("-")
        if form == "fast":
            slow, fast = RECIPES[whole](), RECIPES[name]()
            assert (fast.model, fast.data, fast.limits) == (slow.model, slow.data, slow.limits)
            assert fast.train.epochs < slow.train.epochs / 4
            assert fast.sample.training == fast.alpha.training
            assert fast.cluster.final_workers == 1
        if form == "small":
            assert RECIPES[name]().limits.params == RECIPES[whole]().limits.params


def test_a_file_needs_only_limits_and_what_it_leaves_out_has_the_default(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text(
        "# a comment\nlimits: {latency: 8ms, params: 12000000}\nalpha:\n  budget: 3\n"
        "train: {epochs: 4, lr: 1e-3, batch_size: 64}\nsample: {training: paper-cifar}\n"
    )
    recipe = load_recipe(file)
    assert recipe.limits == Limits(latency="8ms", params="12000000")
    assert recipe.alpha == Alpha(budget=3.0)
    assert recipe.train == Training(epochs=4, lr=0.001, batch_size=64)
    assert recipe.sample == Sample(training=TRAININGS["paper-cifar"])
    assert recipe.data == Data()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "not nothing"),
        ("# only a comment\n", "not nothing"),
        ("- a\n- b\n", "not a list"),
        ("just words", "not a str"),
        ("{}", "there are no limits; add `limits: {latency: 1.5x, params: 2x}`"),
        ("a: [1, 2", "is not a YAML file"),
        ("\tlimits: x", "is not a YAML file"),
        ("\x00\x01", "is not a YAML file"),
        ("limits: {latency: 2x, params: 2x}\n---\nseed: 1", "expected a single document"),
        ("limits: {latency: 2x, params: 2x}\nlimits: {}", "'limits' in line 2 is there twice"),
        ("data: {seed: 1,\n  seed: 2}", "'seed' in line 2 is there twice"),
        ("a: &x {b: *x}", "anchor"),
        ("train: &a [1]\nsample: *a", "anchor"),
        ("!!python/object/apply:os.system ['true']", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("? [a, b]\n: 1", "is not a word"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "4300 digits"),
        ("limits: {latency: 2x, params: 2x, energy: 1}", "unknown key 'limits.energy'"),
        ("limits: {latency: 2x, params: 2x, memory: 1}", "memory must look like '1.33x'"),
        ("limits: {latncy: 2x, params: 2x}", "did you mean 'latency'?"),
        ("limts: {latency: 2x, params: 2x}", "unknown key 'limts'; did you mean 'limits'?"),
        ("limits: {latency: 2x}", "limits.params is missing; 100x leaves parameters free"),
        ("limits: 2x", "limits: Input should be an object, not '2x'"),
        ("limits: {latency: 8, params: 2x}", "latency must look like '1.33x', '8ms', not '8'"),
        ("limits: {latency: 2x, params: 1.5}", "must be a whole number or a ratio"),
        ("limits: {latency: .nan, params: 2x}", "latency must look like"),
        ("limits: {latency: 2x, params: true}", "limits.params: Input should be a valid string"),
        ("limits: {latency: 0.5x, params: 2x}", "give a ratio of at least 1x"),
        ("limits: {latency: 2x, params: 0.5x}", "give a ratio of at least 1x"),
        ("limits: {latency: 2x, params: 2x}\nwidth: 1e999", "must be finite"),
        ("limits: {latency: 2x, params: 2x}\nwidth: .inf", "width: Input should be a valid number"),
        (
            "limits: {latency: 2x, params: 2x}\nseed: 2020-01-01",
            "seed: Input should be a valid int",
        ),
        ("limits: {latency: 2x, params: 2x}\nseed: 1:30", "seed: Input should be a valid integer"),
        ("limits: {latency: 2x, params: 2x}\ntrain: fats", "did you mean 'fast'?"),
        ("limits: {latency: 2x, params: 2x}\ntrain: null", "train: Input should be an object"),
        ("limits: {latency: 2x, params: 2x}\nalpha: {training: {}}", "alpha.training.epochs"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(text: str, fragment: str, tmp_path: Path) -> None:
    assert fragment in refusal(text, tmp_path)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused_file(tmp_path / "missing.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "Is a directory" in refused_file(tmp_path / "folder.yaml")
    (tmp_path / "plain").write_text("")
    assert "Not a directory" in refused_file(tmp_path / "plain" / "x.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    assert "is not a YAML file" in refused_file(tmp_path / "binary.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert "symbolic links" in refused_file(tmp_path / "loop.yaml")


# Plain YAML -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("-3.", -3.0), ("+7", 7), ("010", 10),
        ("0x10", "0x10"), ("1_000", "1_000"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None),
        ("null", None), ("'5'", "5"), ('"true"', "true"), (".nan", ".nan"), ("2x", "2x"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]), ("a: |\n  5\n", {"a": "5\n"}), ("٣", "٣"),
    ],
)  # fmt: skip
def test_plain_yaml_is_that_of_yaml_1_2(text: str, value: object) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs"))),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(json_trees)
def test_json_means_the_same_in_plain_yaml(tree: object) -> None:
    assert load_yaml(json.dumps(tree, indent=1)) == tree


@given(st.text(max_size=40))
def test_any_text_is_yaml_or_one_line(text: str) -> None:
    try:
        load_yaml(text)
    except ValueError as error:
        assert "\n" not in str(error)


# --set ----------------------------------------------------------------------------------------


def test_assignments_change_what_they_name_and_nothing_else() -> None:
    changed = override(
        RECIPE,
        [
            *("seed=3", "data=parquet:/x y", "alpha.budget=1.5", "data.train_images=100"),
            *("train=paper-cifar", "train.epochs=7", "sample.training=fast"),
            "limits.params=9000000",
        ],
    )
    assert changed == replace(
        RECIPE,
        seed=3,
        data=Data(source="parquet:/x y", train_images=100),
        limits=Limits(latency="2x", params="9000000"),
        alpha=Alpha(budget=1.5),
        sample=Sample(training=FAST),
        train=replace(TRAININGS["paper-cifar"], epochs=7, milestones=(2, 5, 6)),
    )
    assert override(changed, ["data.train_images=null"]).data.train_images is None


def test_other_epochs_take_the_schedule_along_but_for_what_is_assigned() -> None:
    """100, 200 and 250 of 300 epochs, and 6 of 30, by a tenth; in whatever order."""
    paper = override(RECIPE, ["train=paper-cifar", "train.epochs=30"]).train
    assert (paper.epochs, paper.milestones) == (30, (10, 20, 25))
    assert FAST.warmup_epochs == 6
    fast = override(RECIPE, ["sample.training=fast", "sample.training.epochs=3"]).sample.training
    assert (fast.epochs, fast.warmup_epochs) == (3, pytest.approx(0.6))
    own = ["train.milestones=[4, 9]", "train.epochs=30"]
    for order in (own, own[::-1]):
        assert override(RECIPE, ["train=paper-cifar", *order]).train.milestones == (4, 9)


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("seed", "--set takes key=value, not 'seed'"),
        ("=3", "--set takes key=value, not '=3'"),
        ("", "--set takes key=value, not ''"),
        ("sed=3", "unknown key 'sed'; did you mean 'seed'?"),
        ("trian.epochs=3", "unknown key 'trian'; did you mean 'train'?"),
        ("train.epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("train.epochs.x=3", "no keys below that value"),
        ("data.source.x.y=3", "no keys below that value"),
        ("train..epochs=3", "unknown key ''"),
        (".=3", "unknown key ''"),
        ("seed=[1", "'[1' is not a YAML value"),
        ("seed=", "seed: Input should be a valid integer, not None"),
        ("seed=x=y", "seed: Input should be a valid integer, not 'x=y'"),
        ("seed=1.5", "seed: Input should be a valid integer, not 1.5"),
        ("seed=-1", "seed must lie in 0 to 2**32 - 1, not -1"),
        ("seed=4294967296", "seed must lie in 0"),
        ("data.seed=-1", "data: seed must lie in 0"),
        ("profile.seed=-7", "profile: seed must lie in 0"),
        ("width=0", "width must lie in (0, 100]"),
        ("width=1e300", "width must lie in (0, 100]"),
        ("width=.nan", "width: Input should be a valid number, not '.nan'"),
        ("width=1e999", "must be finite"),
        ("alpha.low=0", "0 < low < high < 1"),
        ("alpha.high=1", "0 < low < high < 1"),
        ("alpha.low=0.95", "0 < low < high < 1"),
        ("alpha.budget=1", "budget must lie in (1, 100]"),
        ("alpha.budget=1e9", "budget must lie in (1, 100]"),
        ("alpha.sampler=tpa", "Input should be 'tpe', 'gp', 'cmaes' or 'random', not 'tpa'"),
        ("alpha=3", "alpha: Input should be an object, not 3"),
        ("alpha.training=nofast", "unknown training 'nofast'; did you mean 'fast'?"),
        ("limits.latency=-1x", "latency must be above zero"),
        ("limits.params=0", "params must be above zero"),
        (
            "allocate.max_width=5",
            "profile.max_width must be at least allocate.max_width, 5, as a latency model is not",
        ),
        ("allocate.stride=0", "stride must be at least 1"),
        ("sample.min_width=3", "0 < min_width < max_width"),
        ("cluster.final_workers=300", "train.batch_size must be at least cluster.final_workers"),
        ("cluster.final_workers_min=3", "final_workers_min must lie in 1 to final_workers"),
        ("cluster.checkpoint_minutes=0", "checkpoint_minutes must be above zero"),
        ("sample.stop_at_b_ci=0", "stop_at_b_ci must be above zero"),
        ("cluster.gpus_per_trial=2", "a share of one GPU, in [0, 1], not 2"),
        ("cluster.retries=-1", "retries must not be negative"),
        ("train.lr=0", "lr must be above zero"),
        ("data.validation_share=1", "validation_share must lie between 0 and 1"),
        ("data.stored_resolution=31", "must be at least resolution (32), not 31"),
        ("device.batch=0", "batch must be at least 1"),
        ("train.warmup_epochs=31", "warmup_epochs must lie in 0 to epochs (30), not 31"),
        ("train.milestones=[0, 3]", "milestones must be at least 1"),
        ("sample.source=slimable", "source: Input should be 'trained' or 'slimmable' or 'initial'"),
        (
            "cluster.gpus_per_trial=foo",
            "cluster.gpus_per_trial: Input should be a valid number or 'auto', not 'foo'",
        ),
    ],
)
def test_a_bad_assignment_is_refused_in_one_line(assignment: str, fragment: str) -> None:
    message = refused_set(assignment)
    assert fragment in message
    assert len(message) < 400


@given(st.integers(1, 100), st.integers(1, 100), st.floats(0, 1))
def test_a_training_stretched_to_other_epochs_is_valid(old: int, new: int, share: float) -> None:
    """In floating point a warm-up over all epochs would become a little longer than they are."""
    training = Training(epochs=old, warmup_epochs=share * old, milestones=(1, old))
    stretched = training.for_epochs(new)
    assert stretched.warmup_epochs == pytest.approx(share * new)


def test_the_order_of_assignments_does_not_matter() -> None:
    given = ["train.warmup_epochs=40", "train.epochs=80", "train.milestones=[60]"]
    for order in (given, given[::-1]):
        train = override(RECIPE, order).train
        assert (train.epochs, train.warmup_epochs, train.milestones) == (80, 40.0, (60,))
    assert override(RECIPE, ["train.epochs=15", "train.epochs=60"]).train == FAST.for_epochs(60)


def test_a_file_may_name_its_data_in_short_and_is_told_how_to_leave_parameters_free(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: imagefolder:flowers\nlimits: {latency: 5ms, params: 100x}\n")
    assert load_recipe(file).data == Data(source="imagefolder:flowers")
    file.write_text("limits: {latency: 5ms}\n")
    with pytest.raises(UserError, match=r"limits.params is missing; 100x leaves parameters free"):
        load_recipe(file)


def test_a_recipe_of_ones_own_compares_what_could_be_an_answer_and_the_papers_does_not() -> None:
    mine = Recipe(limits=Limits(latency="2x", params="2x"))
    assert (mine.alpha.candidates, mine.alpha.budget) == ("limits", 4.0)
    for name in ("cifar10-vgg11-tight", "cifar10-vgg11-loose", "imagenet-resnet18-tight"):
        papers = RECIPES[name]().alpha
        assert (papers.candidates, papers.budget) == ("compute", 2.0)


@given(st.sampled_from(list(jsonable(RECIPE))), st.text(max_size=8), st.text(max_size=20))
def test_any_assignment_gives_a_recipe_or_one_line(section: str, key: str, value: str) -> None:
    for assignment in (f"{section}={value}", f"{section}.{key}={value}"):
        try:
            assert isinstance(override(RECIPE, [assignment]), Recipe)
        except UserError as error:
            assert "\n" not in str(error).replace(key, "")


# The dataclasses themselves -------------------------------------------------------------------


def numbers(kind: type, prefix: str = "") -> list[str]:
    """Dotted names of all fields that hold one number."""
    found = []
    for field in fields(kind):
        if is_dataclass(field.type):
            found += numbers(field.type, f"{prefix}{field.name}.")
        elif field.type in (int, float, int | None):
            found.append(prefix + field.name)
    return found


@pytest.mark.parametrize("name", numbers(Recipe))
def test_no_number_may_be_negative_and_no_count_zero(name: str) -> None:
    leaf = name.rpartition(".")[2]
    assert leaf in refused_set(f"{name}=-1")
    if leaf in COUNTS:
        assert leaf in refused_set(f"{name}=0")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recipe(limits=LIMITS, seed=-1),
        lambda: Data(seed=-1),
        lambda: Profile(seed=2**32),
        lambda: Cluster(final_workers=0),
        lambda: Recipe(limits=LIMITS, cluster=Cluster(final_workers=300)),
    ],
)
def test_what_may_not_be_cannot_be_made_in_python_either(make) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


def test_two_spellings_of_one_recipe_have_one_digest() -> None:
    whole = override(RECIPE, ["alpha.budget=4", "width=1", "train.warmup_epochs=6"])
    broken = override(RECIPE, ["alpha.budget=4.0", "width=1e0", "train.warmup_epochs=6.0"])
    python = replace(RECIPE, width=1)
    assert digest(whole) == digest(broken) == digest(RECIPE) == digest(python)
    assert decode(Recipe, json.dumps(jsonable(python)), "it") == python


def test_settings_that_are_added_change_no_stage_of_a_run_that_is_there():
    """Sections are parts of stage keys: a new field must be None by default."""
    assert digest(Profile()) == "0396b5c5a2ccb0b3"
    assert digest(Sample()) == "41b040ee9a8fd953"
    assert digest(Alpha(candidates="compute", budget=2)) == "6cbcb098355ad11f"
    assert digest(Allocate()) == "d39e25620fbfd380"
    assert digest(Device()) == "6a4b9374c1c58ce6"
    assert digest(Choose()) == "fd43acf0f88ae8e7"
