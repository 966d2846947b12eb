"""Values to JSON and back: one spelling for equal values, and no way around the types."""

import json
import math
from dataclasses import dataclass, field, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import STRICT, canonical, decode, digest, jsonable, pretty
from engine.errors import UserError, nearest
from engine.limits import Limits
from engine.recipe import Recipe
from engine.rows import Epoch, Row, TrainingTask
from engine.spec import ModelRef, NetworkSpec
from engine.training import FAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    __pydantic_config__ = STRICT

    number: float = 0.5
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    __pydantic_config__ = STRICT

    number: float = 0.5
    maybe: float | None = None
    several: tuple[float, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    nested: tuple[tuple[str, int], ...] = ()
    by_name: dict[str, float] = field(default_factory=dict)
    optional: dict[str, float] | None = None
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    by_inner: dict[str, Inner] = field(default_factory=dict)
    count: int | None = None
    flag: bool = False
    text: str = ""


floats = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=5)
inners = st.builds(Inner, number=floats, count=st.integers())
outers = st.builds(
    Outer,
    number=floats,
    maybe=st.none() | floats,
    several=st.lists(floats, max_size=3).map(tuple),
    pair=st.tuples(names, floats),
    nested=st.lists(st.tuples(names, st.integers()), max_size=3).map(tuple),
    by_name=st.dictionaries(names, floats, max_size=3),
    optional=st.none() | st.dictionaries(names, floats, max_size=3),
    inner=inners,
    inners=st.lists(inners, max_size=2).map(tuple),
    by_inner=st.dictionaries(names, inners, max_size=2),
    count=st.none() | st.integers(-(2**63), 2**63),
    flag=st.booleans(),
    text=names,
)


# Round trips ----------------------------------------------------------------------------------


@given(outers)
def test_a_value_survives_the_round_trip(value: Outer) -> None:
    for data in (canonical(value), pretty(value)):
        assert decode(Outer, data, "it") == value
    assert canonical(decode(Outer, canonical(value), "it")) == canonical(value)


@given(outers, outers)
def test_equal_values_have_equal_bytes_and_others_have_not(a: Outer, b: Outer) -> None:
    assert (canonical(a) == canonical(b)) == (a == b)


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        (Outer(number=2), Outer(number=2.0)),
        (Outer(maybe=2), Outer(maybe=2.0)),
        (Outer(several=(1, 2)), Outer(several=(1.0, 2.0))),
        (Outer(pair=("a", 2)), Outer(pair=("a", 2.0))),
        (Outer(by_name={"a": 2}), Outer(by_name={"a": 2.0})),
        (Outer(optional={"a": 2}), Outer(optional={"a": 2.0})),
        (Outer(inner=Inner(number=2)), Outer(inner=Inner(number=2.0))),
        (Outer(inners=(Inner(number=2),)), Outer(inners=(Inner(number=2.0),))),
        (Outer(by_inner={"a": Inner(number=2)}), Outer(by_inner={"a": Inner(number=2.0)})),
        (Outer(number=-0.0), Outer(number=0.0)),
        (Outer(several=(-0.0,)), Outer(several=(0,))),
        (replace(FAST, lr=1), replace(FAST, lr=1.0)),
    ],
)
def test_whole_numbers_of_float_fields_have_one_spelling(whole: object, broken: object) -> None:
    assert whole == broken
    assert canonical(whole) == canonical(broken)
    assert digest(whole) == digest(broken)
    assert digest([whole, {"a": whole}]) == digest([broken, {"a": broken}])


def test_integers_stay_integers_and_booleans_booleans() -> None:
    value = Outer(count=2, flag=True, nested=(("a", 3),), inner=Inner(count=4))
    tree = json.loads(canonical(value))
    assert (type(tree["count"]), type(tree["nested"][0][1])) == (int, int)
    assert tree["flag"] is True
    assert type(tree["inner"]["count"]) is int


def test_the_rows_of_the_ledger_have_one_spelling() -> None:
    task = TrainingTask(
        spec=NetworkSpec(model=ModelRef(name="m", classes=2), resolution=8, widths=(("a", 4),)),
        training=FAST,
        data="d",
        seed=0,
    )
    epoch = {"train_loss": 1, "val_loss": 2, "val_accuracy": 1, "seconds": 3}
    whole = Row(task=task, status="done", history=(Epoch(**epoch),), importance={"a": 1})
    whole = replace(whole, test_accuracy=1)
    broken = {name: float(number) for name, number in epoch.items()}
    other = Row(task=task, status="done", history=(Epoch(**broken),), importance={"a": 1.0})
    assert canonical(whole) == canonical(replace(other, test_accuracy=1.0))


def test_the_canonical_bytes_are_these() -> None:
    """By hand: what is digested must not change, or no row would be found again."""
    value = Inner(number=3, count=3)
    assert canonical(value) == b'{"count":3,"number":3.0}'
    assert canonical([value, ("ä", None, True)]) == (
        b'[{"count":3,"number":3.0},["\\u00e4",null,true]]'
    )
    # printf '{"count":3,"number":3.0}' | sha256sum
    assert digest(value) == "a3d5e4919afce4a0"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_not_written(bad: float) -> None:
    for value in (Outer(number=bad), Outer(by_name={"a": bad}), [bad]):
        for write in (canonical, pretty, digest):
            with pytest.raises(ValueError, match="not JSON compliant"):
                write(value)


def test_every_field_of_a_recipe_is_in_its_digest() -> None:
    recipe = Recipe(limits=Limits(latency="2x", params="2x"))
    tree = jsonable(recipe)
    seen = {digest(tree)}

    def change(node: dict, key: str) -> None:
        kept = node[key]
        if isinstance(kept, dict):
            for below in kept:
                change(kept, below)
            return
        node[key] = [kept, "changed"]
        assert digest(tree) not in seen
        seen.add(digest(tree))
        node[key] = kept

    for key in tree:
        change(tree, key)
    assert tree == jsonable(recipe)
    assert len(seen) > len(fields(Recipe)) + 40


# What is refused ------------------------------------------------------------------------------


def refusal(data: bytes | str, kind: type = Outer) -> str:
    with pytest.raises(UserError) as caught:
        decode(kind, data, "the file")
    message = str(caught.value)
    assert message.startswith("the file: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"number": 1} x', "not valid JSON"),
        ("\x00" * 40, "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("null", "an object, not None"),
        ("[]", "an object, not []"),
        ('{"number": "2"}', "number: Input should be a valid number, not '2'"),
        ('{"number": true}', "number: Input should be a valid number, not True"),
        ('{"number": null}', "number: Input should be a valid number, not None"),
        ('{"number": NaN}', "number: Input should be a finite number"),
        ('{"number": -Infinity}', "number: Input should be a finite number"),
        ('{"number": 1e999}', "number: Input should be a finite number"),
        ('{"several": [1.0, "x"]}', "several.1: Input should be a valid number"),
        ('{"count": 2.0}', "count: Input should be a valid integer"),
        ('{"count": "2"}', "count: Input should be a valid integer"),
        ('{"flag": 1}', "flag: Input should be a valid boolean"),
        ('{"text": 1}', "text: Input should be a valid string"),
        ('{"pair": ["a"]}', "pair.1: Field required"),
        ('{"numbre": 1}', "unknown key 'numbre'; did you mean 'number'?"),
        ('{"inner": {"cuont": 1}}', "unknown key 'inner.cuont'; did you mean 'count'?"),
        ('{"inner": {"zzz": 1}}', "unknown key 'inner.zzz'; known: count, number"),
        ('{"text": "' + "x" * 500 + '", "number": "' + "y" * 500 + '"}', "yyyy…"),
    ],
)
def test_what_is_not_the_type_is_refused_in_one_line(text: str, fragment: str) -> None:
    message = refusal(text)
    assert fragment in message
    assert len(message) < 300


def test_an_unknown_key_is_named_before_the_missing_one_it_was_meant_for() -> None:
    assert "unknown key 'latncy'; did you mean 'latency'?" in refusal(
        '{"latncy": "2x", "params": "2x"}', Limits
    )
    assert "params: Field required" in refusal('{"latency": "2x"}', Limits)


def test_a_rule_of_the_dataclass_is_told_as_it_is_written() -> None:
    assert refusal('{"latency": "0.5x", "params": "2x"}', Limits) == (
        "the file: latency '0.5x' is below the baseline itself; give a ratio of at least 1x"
    )


@given(outers, st.data())
def test_no_truncation_is_taken_for_the_whole(value: Outer, data: st.DataObject) -> None:
    whole = canonical(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    refusal(whole[:cut])


@given(st.binary(max_size=60))
def test_garbage_is_refused_in_one_line(garbage: bytes) -> None:
    try:
        decode(Inner, garbage, "it")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        json.loads(garbage)


def test_the_nearest_word_is_offered_or_else_all_of_them() -> None:
    assert nearest("digit-vgg11", ["digits-vgg11", "other"]) == "; did you mean 'digits-vgg11'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"


@dataclass
class _Grown:
    kept: int
    added: str | None = None


def test_a_field_that_is_added_and_not_set_leaves_the_identity() -> None:
    assert digest(_Grown(kept=1)) == digest({"kept": 1})
    # A mapping has no optional fields: what stands in it is its value.
    assert digest([{"a": None}, 1]) != digest([{}, 1])
    assert digest(_Grown(kept=1, added="x")) != digest({"kept": 1})
