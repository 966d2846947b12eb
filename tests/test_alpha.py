"""The α search: the same questions whatever happens, and a winner with its error."""

import contextlib
import errno
import json
import logging
import math
import os
import random
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.search import Searcher

from engine.alpha import rank_candidates
from engine.codec import canonical, decode, digest
from engine.errors import UserError
from engine.graph import load_graph
from engine.recipe import Alpha
from engine.rows import NO_MEMORY, Epoch, Row, TrainingTask
from engine.spec import ModelRef, NetworkSpec
from engine.training import FAST
from searchers.alpha import AlphaSearcher

SAMPLERS = ("tpe", "gp", "cmaes", "random")
SHORT = FAST.for_epochs(1)


def network(alpha):
    """Nine networks over α."""
    resolution = round(32 + 8 * alpha * 4) // 4 * 4
    widths = (("conv", 2 * (80 - resolution)),)
    return NetworkSpec(model=ModelRef(name="fake", classes=2), resolution=resolution, widths=widths)


def repeats_of(repeats):
    def tasks(spec):
        return [TrainingTask(spec=spec, training=SHORT, data="d", seed=s) for s in range(repeats)]

    return tasks


def epoch(accuracy, loss=1.0):
    return Epoch(train_loss=1.0, val_loss=loss, val_accuracy=accuracy, seconds=1.0)


def trained(task):
    """Best at 52 px; noise from the task's identity; one task in eleven fails."""
    noise = int(task.id, 16)
    if noise % 11 == 0:
        return Row(task=task, status="failed", error="boom")
    accuracy = 0.8 - 0.0005 * (task.spec.resolution - 52) ** 2 + noise % 97 / 97 * 0.02
    return Row(task=task, status="done", history=(epoch(0.1), epoch(accuracy)))


class Killed(Exception):
    pass


class World:
    """A ledger that outlives searchers, and a Tune that can be killed."""

    def __init__(self, folder, options, seed=0, outcome=trained, candidate=network):
        self.options, self.seed, self.outcome, self.candidate = options, seed, outcome, candidate
        self.journal = Path(folder) / "studies" / "alpha.journal"
        self.ledger = {}
        self.suggested = []
        self.widest = 0

    def searcher(self):
        return AlphaSearcher(
            settings=self.options,
            seed=self.seed,
            journal=self.journal,
            candidate=self.candidate,
            tasks_of=repeats_of(self.options.repeats),
            finished=self.ledger.get,
        )

    def drive(self, workers=1, order=0, events=math.inf):
        """Runs to the end, or raises Killed after so many events. Returns the searcher."""
        searcher, running, chance = self.searcher(), {}, random.Random(order)
        name = 0
        while True:
            while len(running) < workers:
                trial_id = f"trial-{name}"
                config = searcher.suggest(trial_id)
                if config == Searcher.FINISHED:
                    assert not running
                    return searcher
                if config is None:
                    break
                assert searcher.suggest(trial_id) == config
                task = decode(TrainingTask, json.dumps(config["task"]), "task")
                assert task.id not in self.ledger, "suggested again after its row was there"
                assert task.id not in {t.id for t in running.values()}, "suggested twice"
                running[trial_id] = task
                self.suggested.append(task.id)
                name += 1
                events -= 1
                if events < 0:
                    raise Killed
            assert running, "no suggestion, nothing running, not finished"
            self.widest = max(self.widest, len(running))
            trial_id = chance.choice(sorted(running))
            task = running.pop(trial_id)
            self.ledger[task.id] = row = self.outcome(task)
            events -= 1
            if events < 0:
                raise Killed
            searcher.on_trial_complete(trial_id, result=None, error=row.status == "failed")
            searcher.on_trial_complete(trial_id)


def alphas(folder, options, **world):
    return World(folder, options, **world).drive().alphas


def search(**options):
    return Alpha(**{"trials": 12, "batch": 4, "repeats": 2, "training": SHORT} | options)


# The questions ------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_workers_and_their_order_change_nothing(tmp_path, sampler):
    options = search(sampler=sampler, trials=10)
    expected = alphas(tmp_path / "one", options)
    assert len(expected) == 10
    assert all(options.low <= alpha <= options.high for alpha in expected)
    for workers in (2, 5):
        world = World(tmp_path / str(workers), options)
        assert world.drive(workers=workers, order=workers).alphas == expected
        assert world.widest == workers
        assert len(world.suggested) == len(set(world.suggested)) == len(world.ledger)
    assert alphas(tmp_path / "seed", options, seed=1) != expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_at_any_point_it_goes_on_with_the_same_questions(tmp_path, sampler):
    options = search(sampler=sampler, trials=7, batch=3)
    whole = World(tmp_path / "whole", options)
    expected = whole.drive(workers=2).alphas
    for events in range(0, 2 * len(whole.suggested), 5 if sampler == "gp" else 1):
        world = World(tmp_path / str(events), options)
        with pytest.raises(Killed):
            world.drive(workers=2, order=events, events=events)
        kept = set(world.ledger)
        assert world.searcher().known == len(kept)
        again = len(world.suggested)
        assert world.drive(workers=3, order=1).alphas == expected
        assert not kept & set(world.suggested[again:])
        assert world.ledger == whole.ledger


@settings(max_examples=25)
@given(
    options=st.builds(
        search,
        sampler=st.sampled_from(["tpe", "cmaes", "random"]),
        trials=st.integers(1, 9),
        batch=st.integers(1, 5),
        repeats=st.integers(1, 3),
    ),
    workers=st.integers(1, 7),
    order=st.integers(0, 99),
    kills=st.lists(st.integers(0, 20), max_size=4),
)
def test_any_shape_any_kills(options, workers, order, kills):
    with tempfile.TemporaryDirectory() as folder:
        whole = World(Path(folder) / "whole", options)
        expected = whole.drive().alphas
        world = World(Path(folder) / "killed", options)
        for events in kills:
            with contextlib.suppress(Killed):
                world.drive(workers=workers, order=order, events=events)
        assert world.drive(workers=workers, order=order).alphas == expected
        assert world.ledger == whole.ledger


def test_a_batch_is_asked_without_knowledge_of_its_own_results(tmp_path):
    """Changing the results of batch k changes the questions after it and none before."""
    options = search(trials=16)
    expected = alphas(tmp_path / "as it is", options)
    heeded = []
    for batch in range(3):
        changed = {network(alpha) for alpha in expected[4 * batch : 4 * batch + 4]}
        changed -= {network(alpha) for alpha in expected[: 4 * batch]}

        def outcome(task, changed=changed):
            row = trained(task)
            if task.spec not in changed or row.status == "failed":
                return row
            return replace(row, history=(epoch(1 - row.last.val_accuracy),))

        other = alphas(tmp_path / str(batch), options, outcome=outcome)
        assert other[: 4 * batch + 4] == expected[: 4 * batch + 4]
        heeded.append(other != expected)
    assert heeded[0]


def test_the_first_questions_are_even_and_reach_both_ends(tmp_path):
    def first(**options):
        return alphas(tmp_path / digest(options), search(low=0.1, high=0.9, **options))

    assert first(trials=6)[:4] == pytest.approx([0.1, 0.1 + 0.8 / 3, 0.9 - 0.8 / 3, 0.9])
    assert first(trials=6, batch=1)[:4] == pytest.approx(first(trials=6)[:4])
    assert first(trials=8, batch=3)[:6] == pytest.approx([0.1, 0.26, 0.42, 0.58, 0.74, 0.9])
    assert first(trials=2) == pytest.approx([0.1, 0.9])
    assert first(trials=1) == pytest.approx([0.5])


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_samplers_go_where_it_is_good(tmp_path, sampler):
    def peaked(task):
        return Row(task=task, status="done", history=(epoch(1 - abs(task.seed / 1e6 - 0.7)),))

    options = search(sampler=sampler, trials=20, repeats=1)
    world = World(tmp_path, options, outcome=peaked)
    searcher = AlphaSearcher(
        settings=options,
        seed=0,
        journal=tmp_path / "journal",
        candidate=lambda alpha: replace(network(0.5), widths=(("conv", round(alpha * 1e6)),)),
        tasks_of=lambda spec: [
            TrainingTask(spec=spec, training=SHORT, data="d", seed=spec.widths[0][1])
        ],
        finished=world.ledger.get,
    )
    world.searcher = lambda: searcher
    asked = world.drive(workers=4).alphas
    early = statistics.fmean(abs(alpha - 0.7) for alpha in asked[:4])
    late = statistics.fmean(abs(alpha - 0.7) for alpha in asked[-8:])
    assert late < 0.6 * early
    assert min(abs(alpha - 0.7) for alpha in asked) < 0.03


# Rows ---------------------------------------------------------------------------------------


def test_alphas_of_one_network_are_trained_once_and_told_the_same(tmp_path):
    world = World(tmp_path, search(repeats=3), candidate=lambda alpha: network(0.5))
    searcher = world.drive(workers=5)
    assert len(searcher.alphas) == 12
    assert len(world.suggested) == len(world.ledger) == 3
    rows = [row for row in world.ledger.values() if row.status != "failed"]
    mean = statistics.fmean(row.last.val_accuracy for row in rows)
    assert {trial.value for trial in searcher._study.trials} == {mean}


def test_rows_of_the_ledger_are_never_asked_for(tmp_path):
    options = search()
    first = World(tmp_path / "first", options)
    expected = first.drive().alphas
    second = World(tmp_path / "second", options)
    second.ledger = dict(first.ledger)
    assert second.drive().alphas == expected
    assert second.suggested == []


def test_a_failed_repeat_is_left_out_and_a_failed_network_is_no_value(tmp_path):
    def outcome(task):
        if task.spec.resolution >= 56 or (task.spec.resolution == 52 and task.seed == 0):
            return Row(task=task, status="failed", error="NaN loss")
        return Row(task=task, status="done", history=(epoch(0.25 + task.seed / 2),))

    searcher = World(tmp_path, search(), outcome=outcome).drive(workers=3)
    values = {network(t.params["alpha"]).resolution: t.value for t in searcher._study.trials}
    assert {value for r, value in values.items() if r < 52} == {0.5}
    assert values[52] == 0.75
    assert {value for r, value in values.items() if r >= 56} == {None}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_in_which_everything_fails_ends(tmp_path, sampler):
    world = World(
        tmp_path,
        search(sampler=sampler),
        outcome=lambda task: Row(task=task, status="failed", error="boom"),
    )
    searcher = world.drive(workers=4)
    assert len(searcher.alphas) == 12
    graph = load_graph(ModelRef(name="vgg11", classes=10), 32)
    with pytest.raises(UserError, match=r"all \d+ trainings of the α search failed.*boom"):
        rank_candidates(
            graph, graph.spec(32), searcher.alphas, network, list(world.ledger.values())
        )


def test_a_trial_that_ended_without_a_row_is_an_error_and_not_a_wait(tmp_path):
    world = World(tmp_path, search(trials=1, repeats=2))
    searcher = world.searcher()
    task = decode(TrainingTask, canonical(searcher.suggest("a")["task"]), "task")
    assert searcher.suggest("b")["task"]["seed"] == 1
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a")
    assert searcher.suggest("c") is None, "b still runs"
    searcher.on_trial_complete("b")
    searcher.on_trial_complete("unknown", error=True)
    with pytest.raises(RuntimeError, match=task.id):
        searcher.suggest("c")
    for seed in range(2):
        row = Row(task=replace(task, seed=seed), status="failed", error="boom")
        world.ledger[row.task.id] = row
    assert searcher.suggest("c") == Searcher.FINISHED
    assert searcher.suggest("c") == Searcher.FINISHED


def test_forgotten_failures_are_trained_again(tmp_path, caplog):
    # The widest network fails with its first seed.
    def fails_once(task):
        if task.seed == 0 and task.spec == network(0.05):
            return Row(task=task, status="failed", error="boom")
        return Row(task=task, status="done", history=(epoch(0.5),))

    world = World(tmp_path, search(), outcome=fails_once)
    world.drive()
    failed = {id for id, row in world.ledger.items() if row.status == "failed"}
    assert failed
    for id in failed:
        del world.ledger[id]
    world.suggested = []
    world.outcome = lambda task: Row(task=task, status="done", history=(epoch(0.9),))
    searcher = world.drive()
    assert failed <= set(world.suggested)
    assert "the ledger lacks a row" in caplog.text
    assert None not in {trial.value for trial in searcher._study.trials}


# The journal --------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_under_the_journal_is_one_line(begun, tmp_path, monkeypatch):
    world = World(tmp_path, search())
    searcher = world.searcher() if begun else None

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(UserError, match=r"no space left for .*alpha\.journal"):
        searcher.suggest("x") if searcher else world.searcher()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_journal_cut_at_any_line_or_byte_is_made_whole(tmp_path, sampler, caplog):
    options = search(sampler=sampler, trials=7)
    world = World(tmp_path, options)
    expected = world.drive().alphas
    whole = world.journal.read_bytes()
    assert b"optimizer" not in whole, "pickled state of a sampler"
    lines = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    cuts = [(0, False), *((at, False) for at in lines), *((at - 3, True) for at in lines)]
    for at, torn in cuts[:: 12 if sampler == "gp" else 2]:
        folder = tmp_path / f"cut-{at}"
        cut = World(folder, options)
        cut.journal.parent.mkdir(parents=True)
        cut.journal.write_bytes(whole[:at])
        cut.ledger = dict(world.ledger)
        caplog.clear()
        assert cut.drive().alphas == expected, at
        assert cut.suggested == []
        aside = cut.journal.with_name("alpha.journal.damaged-1")
        if torn:
            assert aside.read_bytes() == whole[:at]
            assert caplog.records[0].levelno == logging.WARNING
            assert "torn" in caplog.text


def test_a_cut_journal_of_a_batch_in_flight_trains_only_what_is_missing(tmp_path):
    options = search()
    whole = World(tmp_path / "whole", options)
    expected = whole.drive().alphas
    for events in (3, 9, 14):
        world = World(tmp_path / str(events), options)
        with pytest.raises(Killed):
            world.drive(events=events)
        data = world.journal.read_bytes()
        for cut in (len(data) // 3, len(data) - 1):
            world.journal.write_bytes(data[:cut])
            searcher = world.searcher()
            config = searcher.suggest("x")
            assert decode(TrainingTask, canonical(config["task"]), "task").id not in world.ledger
        assert world.drive().alphas == expected
        assert world.ledger == whole.ledger


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe garbage\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b'{"op_code":99,"worker_id":"w"}\n',
        b'{"op_code":0,"worker_id":"w","study_name":3,"directions":["up"]}\n',
        b"{\n}\n",
        b"\n\n",
        b"no newline",
    ],
)
@pytest.mark.parametrize("place", ["alone", "before", "after"])
def test_garbage_in_the_journal_is_set_aside(tmp_path, garbage, place, caplog):
    options = search(trials=5)
    world = World(tmp_path, options)
    expected = world.drive().alphas
    good = world.journal.read_bytes()
    text = {"alone": garbage, "before": garbage + good, "after": good + garbage}[place]
    world.suggested = []
    for number in (1, 2):
        world.journal.write_bytes(text)
        assert world.drive().alphas == expected
        aside = world.journal.with_name(f"alpha.journal.damaged-{number}")
        assert aside.read_bytes() == text
    assert world.suggested == []
    assert "rebuilt from the ledger" in caplog.text


def test_a_journal_that_tells_another_story_than_the_ledger_is_set_aside(tmp_path, caplog):
    world = World(tmp_path, search(trials=5))
    expected = world.drive().alphas
    lines = world.journal.read_text().splitlines(keepends=True)
    value = next(i for i, line in enumerate(lines) if '"values":[' in line)
    param = next(i for i, line in enumerate(lines) if '"params":{' in line)
    out_of_bounds = [*lines]
    entry = json.loads(lines[param])
    entry["params"]["alpha"] = 0.999
    out_of_bounds[param] = json.dumps(entry) + "\n"
    without_one = lines[:value] + lines[value + 1 :]
    other_value = [*lines]
    entry = json.loads(lines[value])
    entry["values"] = [0.123]
    other_value[value] = json.dumps(entry) + "\n"
    blank = json.loads(lines[param]) | {"params": {}, "distributions": {}}
    stories = {
        "not the ledger's": other_value,
        "out of turn": without_one,
        "out of bounds": out_of_bounds,
        "trials of 5": [*lines, lines[param]],
        "has no α": [lines[0], json.dumps(blank) + "\n"],
    }
    for reason, story in stories.items():
        caplog.clear()
        world.journal.write_text("".join(story))
        assert world.drive().alphas == expected
        assert reason in caplog.text


def test_other_settings_or_seeds_in_one_file_do_not_mix(tmp_path):
    options = search(trials=5)
    expected = alphas(tmp_path / "apart", options)
    other = alphas(tmp_path / "apart too", options, seed=1)
    world = World(tmp_path, options)
    world.drive()
    world.seed = 1
    assert world.drive().alphas == other
    world.seed = 0
    assert world.drive().alphas == expected
    assert not world.journal.with_name("alpha.journal.damaged-1").exists()


def test_a_journal_that_is_a_folder_is_not_moved_away(tmp_path):
    world = World(tmp_path, search())
    world.journal.mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*Is a directory"):
        world.searcher()
    assert world.journal.is_dir()


def test_tunes_save_and_restore_leave_nothing_and_reopen(tmp_path):
    world = World(tmp_path, search())
    searcher = world.searcher()
    config = searcher.suggest("a")
    searcher.save_to_dir(str(tmp_path))
    assert not list(tmp_path.glob("*searcher*"))
    searcher.restore("anything")
    assert searcher.suggest("b") == config
    assert searcher.__getstate__() == {}


# The winner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg():
    return load_graph(ModelRef(name="vgg11", classes=10), 32)


def ranked(graph, results, alphas=None):
    """``results``: resolution to a list of (status, accuracy, loss)."""
    base = graph.spec(32, multiplier=0.125)
    rows = [
        Row(
            task=TrainingTask(spec=base.at(r), training=SHORT, data="d", seed=seed),
            status=status,
            history=() if accuracy is None else (epoch(0.0, 9.0), epoch(accuracy, loss)),
            error="boom" if status == "failed" else None,
        )
        for r, repeats in results.items()
        for seed, (status, accuracy, loss) in enumerate(repeats)
    ]
    alphas = alphas or [r / 100 for r in results]
    return rank_candidates(graph, base, alphas, lambda a: base.at(round(a * 100)), rows)


def done(*accuracies, loss=1.0):
    return [("done", accuracy, loss) for accuracy in accuracies]


def test_winner_spread_and_ties_by_hand(vgg):
    result = ranked(
        vgg,
        {
            32: done(0.58, 0.60),  # mean 0.59, squares 2 · 0.01²
            40: done(0.68, 0.72),  # mean 0.70, squares 2 · 0.02²
            48: done(0.66, 0.66),  # mean 0.66, squares 0
            56: done(0.62, 0.68),  # mean 0.65, squares 2 · 0.03²
        },
    )
    pooled = math.sqrt((2 * 0.01**2 + 2 * 0.02**2 + 2 * 0.03**2) / 4)
    assert (result.alpha, result.resolution) == (0.4, 40)
    assert result.standard_error == pytest.approx(pooled / math.sqrt(2))
    # q of 4 networks and 4 degrees of freedom is 5.757 in the tables: 5.757·0.02646/√2 = 0.1077.
    # 0.66 (0.04 away) and 0.65 (0.05) are tied, 0.59 (0.11) is not.
    assert result.tied == 2
    assert result.failed == 0
    assert [c.spec.resolution for c in result.candidates] == [32, 40, 48, 56]
    assert result.candidates[1].macs_ratio == pytest.approx(
        vgg.cost(vgg.spec(40, 0.125)).macs / vgg.cost(vgg.spec(32, 0.125)).macs
    )


def test_equal_means_are_decided_by_loss_then_by_order(vgg):
    by_loss = ranked(vgg, {32: done(0.5, 0.7, loss=2.0), 40: done(0.6, 0.6, loss=1.5)})
    assert by_loss.alpha == 0.4
    by_order = ranked(vgg, {40: done(0.6, 0.6), 32: done(0.6, 0.6)})
    assert (by_order.alpha, by_order.standard_error, by_order.tied) == (0.4, 0.0, 1)


def test_one_repeat_has_no_standard_error(vgg):
    result = ranked(vgg, {32: done(0.5), 40: done(0.6)})
    assert (result.alpha, result.standard_error, result.tied) == (0.4, None, None)
    assert decode(type(result), canonical(result), "result") == result


def test_failed_and_stopped_repeats(vgg):
    failed, stopped = ("failed", None, 0), ("stopped", 0.1, 1.0)
    result = ranked(
        vgg,
        {
            32: [failed, failed],
            40: [("done", 0.7, 1.0), failed],
            48: [*done(0.60, 0.64), stopped],
            56: [("failed", 0.99, 0.1), ("stopped", None, 0)],
        },
    )
    # Of 0.7 a repeat failed, as it may when it is the answer.
    assert result.alpha == 0.48
    assert [c.accuracies for c in result.candidates] == [(0.7,), (0.60, 0.64, 0.1)]
    # Only 0.60 and 0.64 are whole repeats of one network: s = 0.02·√2, three repeats of the winner.
    assert result.standard_error == pytest.approx(0.02 * math.sqrt(2 / 3))
    assert result.failed == 5


def test_alphas_of_one_network_are_one_candidate(vgg):
    result = ranked(vgg, {32: done(0.5, 0.6), 40: done(0.8, 0.9)}, [0.32, 0.401, 0.399, 0.321])
    assert [c.alphas for c in result.candidates] == [(0.32, 0.321), (0.401, 0.399)]
    assert result.alpha == 0.401


# Tune itself --------------------------------------------------------------------------------


class Recorder(tune.Callback):
    """Writes rows where the driver does: after the searcher heard of the end."""

    def __init__(self, world):
        self.world = world

    def __getstate__(self):
        return {}

    def on_trial_complete(self, iteration, trials, trial, **info):
        task = decode(TrainingTask, canonical(trial.config["task"]), "task")
        self.world.ledger[task.id] = trained(task)


@pytest.mark.ray
def test_tune_runs_a_search_to_its_end_with_trials_side_by_side(tmp_path, monkeypatch):
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_TRAIN_V2_ENABLED": "1",
    }.items():
        monkeypatch.setenv(name, value)

    def trainable(config):
        began = time.time()
        Path(begun, str(began)).touch()
        while len(os.listdir(begun)) < 2 and time.time() < began + 60:  # the first, for the second
            time.sleep(0.1)
        time.sleep(0.5)
        tune.report({"began": began, "ended": time.time(), "task": config["task"]})

    begun = tmp_path / "begun"
    begun.mkdir()
    options = search(trials=5, batch=4, repeats=1)
    expected = alphas(tmp_path / "by hand", options)
    world = World(tmp_path / "tuned", options)
    world.lock = threading.Lock()  # Tune pickles its configuration: this must not be in it
    # By itself: another test may have a cluster on this machine.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        spans = []
        for round_ in range(2):
            searcher = world.searcher()
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=searcher, num_samples=-1, max_concurrent_trials=4
                ),
                run_config=tune.RunConfig(
                    name=f"round-{round_}",
                    storage_path=str(tmp_path / "tune"),
                    callbacks=[Recorder(world)],
                    verbose=0,
                ),
            )
            results = tuner.fit()
            assert searcher.alphas == expected
            spans.append([(r.metrics["began"], r.metrics["ended"]) for r in results])
    finally:
        ray.shutdown()
    trained_once, resumed = spans
    assert len(trained_once) == len({network(alpha) for alpha in expected})
    assert resumed == [], "a finished search is asked for nothing"
    assert any(
        a < d and c < b for i, (a, b) in enumerate(trained_once) for c, d in trained_once[:i]
    )


@pytest.mark.parametrize("ended", [{"result": {"status": NO_MEMORY}}, {"error": True}])
def test_trainings_without_memory_or_worker_end_the_search_and_are_asked_again(
    ended: dict, tmp_path
) -> None:
    options = search(trials=4, repeats=1)
    expected = alphas(tmp_path / "whole", options)
    world = World(tmp_path / "short", options)
    searcher = world.searcher()
    first = {f"trial-{i}": searcher.suggest(f"trial-{i}") for i in range(4)}
    tasks = {i: decode(TrainingTask, json.dumps(c["task"]), "task") for i, c in first.items()}
    for trial_id, task in tasks.items():
        if trial_id == "trial-2":
            searcher.on_trial_complete(trial_id, **ended)
        else:
            assert searcher.suggest("another") is None
            world.ledger[task.id] = trained(task)
            searcher.on_trial_complete(trial_id, {"status": "done"})
    assert searcher.suggest("another") == Searcher.FINISHED
    searcher.restore("")
    config = searcher.suggest("again")
    assert config == first["trial-2"]
    world.ledger[tasks["trial-2"].id] = trained(tasks["trial-2"])
    assert searcher.suggest("last") == Searcher.FINISHED
    assert searcher.alphas == expected
