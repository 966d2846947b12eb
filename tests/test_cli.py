"""The command line against hostile users: one clear line, exit code 2, and nothing begun."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_run import example_run
from PIL import Image

from cluster.code import PACKAGES, check_directory
from cluster.session import Session
from engine.cli import main
from engine.codec import pretty
from engine.errors import UserError
from engine.limits import Limits
from engine.local_folder import write_atomic
from engine.provenance import run_info
from engine.recipe import Recipe
from engine.recipes import RECIPES
from engine.store import FORMAT, RunStore

RAN = "Ray was about to start"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch):
    """Everything here ends before Ray starts; what does not says so, and signals are put back."""

    def start(self: Session) -> None:
        raise UserError(RAN)

    monkeypatch.setattr(Session, "start", start)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    path = list(sys.path)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.path[:] = path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for `cluster.driver`; its functions are the test's."""
    stub = SimpleNamespace(write_results=lambda record, directory: None)
    monkeypatch.setitem(sys.modules, "cluster.driver", stub)
    return stub


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], runs: Path) -> None:
        self._capsys = capsys
        self._runs = runs

    def __call__(self, *words: object) -> tuple[int, str, str]:
        code: object = 0
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code or 0
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(code, int)
        return code, out, err

    def refused(self, *words: object) -> str:
        code, out, err = self(*words)
        assert code == 2, out + err
        assert err.startswith("hacscale: ")
        assert err.count("\n") == 1, err
        return err.strip()

    def refused_run(self, *words: object, recipe: object = "digits-vgg11") -> str:
        return self.refused("run", recipe, "--runs-dir", self._runs, *words)

    def refused_set(self, *assignments: str) -> str:
        return self.refused_run("--set", *assignments)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], runs: Path) -> Shell:
    return Shell(capsys, runs)


def command(*words: object, code: str = "", **options) -> subprocess.Popen[str]:
    """Starts a command in a process of its own, after ``code``."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}\nfrom engine.cli import main; main()", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "the following arguments are required: COMMAND; see `hacscale --help`"),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run"], "required: RECIPE|FILE.yaml; see `hacscale run --help`"),
        (["run", "digits-vgg11", "extra"], "unrecognized arguments: extra"),
        (["run", "digits-vgg11", "--latncy", "2x"], "unrecognized arguments: --latncy 2x"),
        (["run", "digits-vgg11", "--latency"], "expected one argument"),
        (["run", "digits-vgg11", "--latency", "2x", "--latency-ms", "3"], "not allowed with"),
        (["run", "digits-vgg11", "--set"], "expected at least one argument"),
        (["run", "digit-vgg11"], "unknown recipe 'digit-vgg11'; did you mean 'digits-vgg11'?"),
        (["run", ""], "unknown recipe ''; known: "),
        (["run", "a\nb"], r"unknown recipe 'a\nb'"),
        (["run", "no.yaml"], "No such file or directory; give a file that is there, or a name"),
        (["cluster", "init", "slurm", "--recipe", "digit-vgg11"], "did you mean 'digits-vgg11'?"),
        (["cluster", "init", "slurm", "--out", "no/x.sh"], "cannot write no/x.sh: No such file"),
        (["runs", "--runs-dir", ""], "--runs-dir: it is empty; give a directory or a URI"),
        (["resume"], "required: RUN"),
        (["status", "nope"], "there is no run 'nope' in runs"),
        (["status", "x" * 5000], "cannot look for"),
        (["report", "a/../../b"], "there is no run"),
        (["allocate", ""], "there is no run ''"),
        (["compare", "nope"], "there is no run 'nope' in runs"),
        (["recipes", "x"], "unrecognized arguments: x"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], fragment: str, shell: Shell) -> None:
    assert fragment in shell.refused(*words)


def test_a_recipe_without_a_run_is_searched_before_it_is_compared(
    shell: Shell, runs: Path, no_ray
) -> None:
    assert RAN in shell.refused("compare", "digits-vgg11", "--runs-dir", runs)
    assert RunStore(runs / "digits-vgg11").info().recipe == RECIPES["digits-vgg11"]()
    assert RAN in shell.refused("compare", "digits-vgg11", "--runs-dir", runs)


def test_the_version_and_the_recipes_are_told(shell: Shell) -> None:
    assert shell("--version") == (0, "hacscale 0.1.0\n", "")
    code, out, _ = shell("recipes")
    assert code == 0
    assert all(name in out for name in RECIPES)


@pytest.mark.parametrize("words", [[], ["run"], ["resume"], ["status"], ["report"], ["allocate"]])
def test_help_is_told(words: list[str], shell: Shell) -> None:
    code, out, err = shell(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: hacscale")


# Recipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--latency", "0.9x"], "'0.9x' is below the baseline itself"),
        (["--latency=-1x"], "latency must be above zero, not '-1x'"),
        (["--latency", "nan"], "latency must look like '1.33x', '8ms', not 'nan'"),
        (["--latency-ms", "0"], "latency must be above zero, not '0ms'"),
        (["--latency-ms", "-5"], "latency must be above zero, not '-5ms'"),
        (["--latency-ms", "inf"], "latency must look like '1.33x', '8ms', not 'infms'"),
        (["--latency-ms", ""], "latency must look like '1.33x', '8ms', not 'ms'"),
        (["--params", "0"], "params must be above zero"),
        (["--params", "0.5x"], "give a ratio of at least 1x"),
        (["--params", "1.33"], "a whole number or a ratio as in '1.33x', not '1.33'"),
        (["--set", "seed=-1"], "seed must lie in 0"),
        (["--set", "data.seed=-1"], "seed must lie in 0"),
        (["--set", "profile.seed=-1"], "seed must lie in 0"),
        (["--set", "alpha.low=0"], "0 < low < high < 1"),
        (["--set", "alpha.high=1.0"], "0 < low < high < 1"),
        (["--set", "sede=1"], "did you mean 'seed'?"),
        (["--set", "train.epochs=ten"], "train.epochs: Input should be a valid integer, not 'ten'"),
        (["--set", "train.lr=1e999"], "must be finite"),
        (["--set", "a\nb=1"], "unknown key 'a\\nb'"),
        (["--set", "cluster.final_workers=500"], "must be at least cluster.final_workers"),
        (["--name", ""], "'' does not: give another --name"),
        (["--name", "a/b"], "'a/b' does not"),
        (["--name", "../up"], "'../up' does not"),
        (["--name", ".."], "'..' does not"),
        (["--name", ".hidden"], "'.hidden' does not"),
        (["--name", "a b"], "'a b' does not"),
        (["--name", "x" * 101], "at most 100 letters"),
        (["--name", "[/x]"], "'[/x]' does not"),
    ],
)
def test_wrong_options_are_one_line_and_begin_nothing(
    words: list[str], fragment: str, shell: Shell, runs: Path
) -> None:
    assert fragment in shell.refused_run(*words)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "must hold the keys of a recipe, not nothing"),
        (b"\x80\x00\xff", "is not a YAML file"),
        (b"limits: [", "is not a YAML file"),
        (b"limits: {latency: 2x, params: 2x}\nseeds: 1", "did you mean 'seed'?"),
        (b"limits: {latency: 2x, params: 2x}\nseed: 1\nseed: 2", "is there twice"),
        (b'{? "a\\nb" : 1}', "unknown key"),
    ],
)
def test_bad_recipe_files_are_one_line(
    content: bytes, fragment: str, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert fragment in shell.refused_run(recipe=file)


def test_recipe_files_that_are_none_are_one_line(shell: Shell, tmp_path: Path) -> None:
    assert "No such file" in shell.refused_run(recipe=tmp_path / "missing.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "Is a directory" in shell.refused_run(recipe=tmp_path / "folder.yaml")
    (tmp_path / "mine.txt").write_text("")
    assert "a recipe file ends in .yaml" in shell.refused_run(recipe=tmp_path / "mine.txt")
    (tmp_path / "my recipe.yaml").write_text("limits: {latency: 2x, params: 2x}")
    message = shell.refused_run(recipe=tmp_path / "my recipe.yaml")
    assert "'my recipe' does not: give another --name" in message


def test_a_recipe_file_runs_under_its_own_name(shell: Shell, tmp_path: Path, runs: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("limits: {latency: 2x, params: 2x}\nwidth: 0.25")
    assert RAN in shell.refused_run(recipe=file)
    assert RunStore(runs / "mine").info().recipe == Recipe(
        limits=Limits(latency="2x", params="2x"), width=0.25
    )


# Data and network -----------------------------------------------------------------------------


def png(seed: int) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(folder: Path, labels: list[int], images: dict[int, bytes] | None = None) -> str:
    """A data set of 8×8 noise; ``images`` replaces encoded training images."""
    folder.mkdir(exist_ok=True)
    for split, some in (("train", labels), ("test", [0, 1])):
        encoded = [png(i) for i in range(len(some))]
        for i, image in (images or {}).items() if split == "train" else ():
            encoded[i] = image
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = pa.array([{"bytes": e, "path": None} for e in encoded], struct)
        pq.write_table(pa.table({"img": rows, "label": some}), folder / f"{split}.parquet")
    return f"data=parquet:{folder}"


def test_bad_data_is_one_line(shell: Shell, tmp_path: Path) -> None:
    good = [0, 1] * 20
    refused, folder = shell.refused_set, tmp_path / "set"
    assert "must hold train*.parquet" in refused(f"data=parquet:{tmp_path / 'missing'}")
    data = write_parquet(folder, good, {7: b"no picture"})
    assert "the image in row 7 of" in refused(data)
    data = write_parquet(folder, good, {7: png(7)[:60]})
    assert "the image in row 7 of" in refused(data)
    assert "have the label 1; give two" in refused(write_parquet(folder, [1] * 40))
    assert "number the classes from 0 without gaps" in refused(write_parquet(folder, [0, 7] * 20))
    assert "-1" in refused(write_parquet(folder, [0, -1] * 20))
    data = write_parquet(folder, good)
    file = folder / "train.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot read the Parquet file" in refused(data)
    assert "unknown data source 'digit'; did you mean 'digits'?" in refused("data=digit")
    assert "needs a path" in refused("data=parquet:")


@pytest.mark.parametrize(
    ("assignments", "fragment"),
    [
        (["data.resolution=16"], "model 'vgg11' cannot take"),
        (["data.resolution=1000000"], "memory"),
        (["model=vgg12"], "unknown model 'vgg12'; did you mean 'vgg1"),
        (["model=nosuch.module:f"], "importing 'nosuch.module' failed"),
        (["model=os.path:sep"], "has no function 'sep'"),
        (["data.train_images=5"], "5 of 10 classes lost"),
        (["data.train_images=100000"], "data.train_images 100000 is more than the"),
        (["train.batch_size=100000"], "train.batch_size 100000 is more than the 400 training"),
        (["sample.training.batch_size=402"], "sample.training.batch_size 402 is more than the 400"),
        (["data.train_images=50", "alpha.training.batch_size=51"], "more than the 50 training"),
        (["limits.params=1000"], "below the baseline's own 579098"),
        (["limits.memory=10KB"], "below the baseline's own 2459.8 KB"),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    assignments: list[str], fragment: str, shell: Shell
) -> None:
    assert fragment in shell.refused_set(*assignments)


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("model=vgg12", "unknown model 'vgg12'"),
        ("model=nowhere:net", "importing 'nowhere' failed"),
        ("task.metric=nowhere:score", "task.metric 'nowhere:score': importing"),
        ('choose.rivals=["nobody"]', "nobody"),
    ],
)
def test_names_are_looked_up_before_data_are_read(
    assignment: str, fragment: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("cluster.dataset.load_data", read)
    assert fragment in shell.refused_set(assignment)


def test_an_output_without_room_is_one_line() -> None:
    for words in (["recipes"], ["check", "vgg11"], ["--version"]):
        with open("/dev/full", "w") as full:
            run = subprocess.run(
                [sys.executable, "-c", "from engine.cli import main; main()", *words],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
                env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
            )  # fmt: skip
        assert run.returncode == 2
        assert run.stderr.count("\n") == 1
        assert run.stderr.startswith("hacscale: the output cannot be written: No space left")


def test_user_code_in_the_working_directory_is_found(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def tiny(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert RAN in shell.refused_set("model=my_networks:tiny")
    assert "did you mean 'tiny'?" in shell.refused_set("model=my_networks:tinny")


# Places ---------------------------------------------------------------------------------------


def test_a_runs_dir_under_a_file_is_one_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        message = shell.refused("run", "digits-vgg11", "--runs-dir", place)
        assert "cannot write" in message
        assert "give another path, which is --runs-dir for runs" in message
        assert "there is no run 'x'" in shell.refused("status", "x", "--runs-dir", place)


@pytest.mark.parametrize(
    ("code", "fragment"),
    [(errno.EACCES, "Permission denied; give another path"), (errno.ENOSPC, "no space left")],
)
def test_no_permission_and_no_space_are_one_line(
    code: int, fragment: str, shell: Shell, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for owner, step in ((os, "fsync"), (Path, "mkdir")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, fail)
            assert fragment in shell.refused_run()
    assert not list(runs.rglob("*.tmp"))


def test_a_run_that_cannot_be_read_is_one_line(shell: Shell, runs: Path, monkeypatch) -> None:
    begin(shell, "mine")

    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "there")

    for step, fragment in (("is_file", "cannot look for"), ("read_bytes", "cannot")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, fail)
            assert fragment in shell.refused("resume", "mine", "--runs-dir", runs)


def test_a_run_that_cannot_be_read_hides_no_other(shell: Shell, runs: Path) -> None:
    for name in ("one", "two"):
        begin(shell, name)
    shutil.rmtree(runs / "one" / "ledger", ignore_errors=True)
    (runs / "one" / "ledger").symlink_to("ledger")
    code, out, error = shell("runs", "--runs-dir", runs)
    assert code == 2
    assert "cannot read" in error and str(runs / "one") in error
    assert re.search(r"^one +cannot be read *$", out, re.MULTILINE)
    assert re.search(r"^two +interrupted", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["engine", "cluster", "searchers.py"])
def test_a_working_directory_that_hides_our_packages_is_one_line(
    name: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "." not in name:
        (tmp_path / name).mkdir()
        check_directory()  # Python prefers our packages to a folder that is none
    hidden = tmp_path / name if "." in name else tmp_path / name / "__init__.py"
    hidden.touch()
    assert f"{tmp_path / name} has the name of a package of hacscale" in shell.refused_run()


def test_a_clone_of_what_is_installed_hides_nothing_until_it_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in PACKAGES:
        shutil.copytree(package, tmp_path / package.name)
    check_directory()
    with (tmp_path / "engine" / "commands" / "plan.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(UserError, match="if it is a clone of hacscale, install that"):
        check_directory()


# Clusters -------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_address_that_nobody_answers_fails_before_anything_is_begun(
    shell: Shell, runs: Path
) -> None:
    for scheme in ("", "ray://"):
        address = f"{scheme}127.0.0.1:{closed_port()}"
        message = shell.refused_run("--address", address)
        assert f"nobody answers at {address}" in message
    assert not [path for path in runs.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize(
    "address",
    [
        *("", "foo", "127.0.0.1", ":6379", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:-1"),
        *("ray://", "ray://host", "http://127.0.0.1", "127.0.0.1:70000", "a:b:c"),
        "127.0.0.1:" + "9" * 5000,
    ],
)
def test_an_address_that_is_none_is_one_line(address: str, shell: Shell) -> None:
    message = shell.refused_run(f"--address={address}")
    assert f"--address takes auto, HOST:PORT or ray://HOST:PORT, not {address!r}" in message


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "no such host", "nosuch.invalid", "[::1"])
def test_a_host_that_is_none_is_one_line(host: str, shell: Shell) -> None:
    assert "nobody answers at" in shell.refused_run(f"--address={host}:{closed_port()}")


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, ValueError, TimeoutError])
def test_what_ray_says_is_one_line(error, shell: Shell, monkeypatch, no_ray) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise error("nothing\nruns here")

    monkeypatch.undo()
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("cluster.session.check_cluster", lambda address: None)
    message = shell.refused_run("--address", "auto")
    assert message == "hacscale: cannot join Ray at auto: nothing runs here"


def test_a_slow_start_of_ray_is_tried_again(monkeypatch, tmp_path: Path) -> None:
    import ray

    monkeypatch.undo()
    tries: list[object] = []

    def init(**options: object) -> None:
        tries.append(options["address"])
        if len(tries) < 3:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", init)
    session = Session(None, tmp_path)
    session.start()
    assert tries == ["local"] * 3
    session.stop()


# Run directories ------------------------------------------------------------------------------


def begin(shell: Shell, name: str, *assignments: str) -> Path:
    """Begins a run as far as the data stage."""
    message = shell.refused_run("--name", name, *(("--set", *assignments) if assignments else ()))
    assert RAN in message
    return shell._runs / name


def test_unknown_runs_name_the_nearest(shell: Shell, runs: Path) -> None:
    begin(shell, "digits-first")
    (runs / "lost+found").mkdir()
    (runs / "my copy").touch()
    for word in ("resume", "status", "report", "allocate"):
        message = shell.refused(word, "digits-frist", "--runs-dir", runs)
        assert "did you mean 'digits-first'?" in message


def test_unfinished_runs_are_not_reported(shell: Shell, runs: Path) -> None:
    directory = begin(shell, "mine")
    before = {path for path in directory.rglob("*") if path.name != ".lock"}
    for run in ("mine", directory):
        message = shell.refused("report", run, "--runs-dir", runs)
        assert f"the baseline stage of {directory} is not complete" in message
        assert f"`hacscale resume {directory}`" in message
        message = shell.refused("allocate", run, "--runs-dir", runs)
        assert "the run mine has chosen no widths yet" in message
        assert f"`hacscale resume {directory}`" in message
    assert {path for path in directory.rglob("*") if path.name != ".lock"} == before


def test_a_damaged_run_is_resumed_by_its_recipe(shell: Shell, runs: Path) -> None:
    directory = begin(shell, "mine")
    (directory / "run.json").write_bytes((directory / "run.json").read_bytes()[:200])
    for word in ("resume", "status", "report", "allocate"):
        message = shell.refused(word, "mine", "--runs-dir", runs)
        assert f"repeat `hacscale run RECIPE --name mine --runs-dir {runs}`" in message
        assert "finished work is kept" in message
    begin(shell, "mine")
    assert len(list(directory.glob("data-*/manifest.json"))) == 1
    assert RAN in shell.refused("resume", "mine", "--runs-dir", runs)


def test_a_newer_run_is_left_alone(shell: Shell, runs: Path) -> None:
    write_atomic(runs / "mine" / "run.json", b'{"format": %d}' % (FORMAT + 1))
    for words in (["run", "digits-vgg11", "--name"], ["resume"], ["status"], ["report"]):
        assert "newer hacscale" in shell.refused(*words, "mine", "--runs-dir", runs)


def test_two_drivers_on_one_run_are_one_line(shell: Shell, runs: Path) -> None:
    holder = command(
        code="import sys, time; from pathlib import Path; from engine.store import RunStore\n"
        f"lock = RunStore(Path({str(runs / 'mine')!r})).lock(); lock.__enter__()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for more in ([], ["--retry-failed"]):
        assert "another process drives the run" in shell.refused_run("--name", "mine", *more)
    holder.kill()
    holder.communicate()
    begin(shell, "mine")


def test_status_knows_which_stages_the_present_recipe_has_reached(
    shell: Shell, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(shell, "mine", "data.train_images=300")
    (runs / "mine" / "checkpoints").mkdir()
    (runs / "mine" / "checkpoints" / "abc.pt").touch()
    before = {path: path.read_bytes() for path in runs.rglob("*.json")}

    def states() -> list[list[str]]:
        code, out, err = shell("status", "mine", "--runs-dir", runs)
        assert (code, err) == (0, "")
        assert "trainings: 0 done, 0 stopped, 0 failed, 1 begun" in out
        assert "mine (digits-vgg11)" in out
        cells = [line.split("│") for line in out.splitlines() if "│" in line]
        return [[stage.strip(), state.strip()] for _, stage, state, _ in cells]

    later = [
        "baseline",
        "profile",
        "alpha",
        "sample",
        "fit",
        "allocate",
        "choose",
        "train",
        "measure",
    ]
    assert states() == [["data", "complete"], *([stage, "to do"] for stage in later)]

    def refuse(*_: object, **__: object) -> None:
        raise UserError("no data today")

    with monkeypatch.context() as patch:
        patch.setattr("cluster.dataset.load_data", refuse)
        message = shell.refused_run("--name", "mine", "--set", "data.train_images=200")
        assert "no data today" in message
        # A recipe that cannot be run has not taken the place of the one that was.
        assert states()[0] == ["data", "complete"]
    begin(shell, "mine", "data.train_images=300")
    assert {path: path.read_bytes() for path in runs.rglob("*.json")} == before


def test_status_of_a_finished_run(shell: Shell, runs: Path, driver: SimpleNamespace) -> None:
    from test_store import row

    store = RunStore(runs / "mine")
    store.write_info(run_info("mine", "", RECIPES["digits-vgg11"]()))
    for one in (row(1), row(2), row(3, "stopped"), row(4, "failed")):
        store.ledger.add(one)
    driver.read_run = lambda directory: example_run()
    _, out, _ = shell("status", "mine", "--runs-dir", runs)
    assert (out.count("complete"), out.count("to do")) == (10, 0)
    assert "trainings: 2 done, 1 stopped, 1 failed, 0 begun" in out
    assert f"failed {row(4, 'failed').task.id}: the loss is not finite" in out


def test_a_recipe_name_with_markup_is_shown_as_it_is(shell: Shell, runs: Path) -> None:
    info = run_info("mine", "[/x] :smile:", RECIPES["digits-vgg11"]())
    RunStore(runs / "mine").write_info(info)
    _, out, _ = shell("status", "mine", "--runs-dir", runs)
    assert "mine ([/x] :smile:)" in out


# A run that ends ------------------------------------------------------------------------------


def test_an_interrupted_run_says_how_to_go_on(shell: Shell, runs: Path, driver) -> None:
    driver.run_search = lambda *_: signal.raise_signal(signal.SIGINT)
    code, out, _ = shell("run", "digits-vgg11", "--runs-dir", runs)
    assert code == 130
    assert out == "stopping\nthe run has not begun; repeat the command to begin it\nstopped\n"
    write_atomic(runs / "digits-vgg11" / "run.json", b"{}")
    code, out, _ = shell("run", "digits-vgg11", "--runs-dir", runs)
    assert code == 130
    assert f"hacscale resume {runs / 'digits-vgg11'}" in out


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("data=digit", "unknown data source"),
        ("model=vgg12", "unknown model"),
        ("train.batch_size=100000", "train.batch_size 100000 is more than"),
        ("data.resolution=16", "cannot take"),
        ("task.metric=nosuch.module:f", "importing 'nosuch.module' failed"),
        ("seed=x", "valid integer"),
    ],
)
def test_a_recipe_that_cannot_be_run_takes_the_place_of_none(
    assignment: str, fragment: str, shell: Shell, runs: Path
) -> None:
    assert RAN in shell.refused_run()
    before = (runs / "digits-vgg11" / "run.json").read_bytes()
    assert fragment in shell.refused_set(assignment)
    assert (runs / "digits-vgg11" / "run.json").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_stop_a_run_in_order(number, shell: Shell, runs: Path, driver) -> None:
    driver.run_search = lambda *_: signal.raise_signal(number)
    assert shell("run", "digits-vgg11", "--runs-dir", runs)[0] == 130


def test_failed_trainings_are_forgotten_when_asked(shell: Shell, runs: Path, driver) -> None:
    asked, record = [], example_run()
    driver.run_search = lambda *given: asked.append(given[-1]) or record
    shell("run", "digits-vgg11", "--runs-dir", runs)
    shell("run", "digits-vgg11", "--runs-dir", runs, "--retry-failed")
    assert asked == [False, True]


def test_a_report_writes_figures_and_says_where_it_cannot(
    shell: Shell, runs: Path, tmp_path: Path, driver
) -> None:
    RunStore(runs / "mine").write_info(run_info("mine", "", RECIPES["digits-vgg11"]()))
    driver.read_run = lambda directory: example_run()
    code, out, err = shell("report", "mine", "--runs-dir", runs, "--figures", tmp_path / "figures")
    assert (code, err) == (0, "")
    assert str(runs / "mine" / "report.html") in out.replace("\n", "")
    assert len(list((tmp_path / "figures").iterdir())) > 3
    (tmp_path / "file").touch()
    message = shell.refused("report", "mine", "--runs-dir", runs, "--figures", tmp_path / "file")
    assert f"cannot write {tmp_path / 'file'}" in message


# Processes ------------------------------------------------------------------------------------

INTERRUPTED_IMPORT = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "rich":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
"""


def test_an_interruption_while_the_program_loads_is_no_traceback() -> None:
    process = command("recipes", code=INTERRUPTED_IMPORT)
    assert process.communicate(timeout=60) == ("", "hacscale: stopped\n")
    assert process.returncode == 130


CHATTER = (
    "import sys, types\n"
    "def run_search(recipe, directory, name, address, console, hours, retry_failed):\n"
    "    for i in range(100_000): console.print('a line of progress')\n"
    "sys.modules['cluster.driver'] = types.SimpleNamespace(run_search=run_search)\n"
)


@pytest.mark.parametrize(
    ("words", "code"),
    [(["recipes"], ""), (["status", "--help"], ""), (["run", "digits-vgg11"], CHATTER)],
)
def test_a_closed_pipe_is_no_traceback(words: list[str], code: str, tmp_path: Path) -> None:
    reader = command(*words, code=code, cwd=tmp_path)
    assert reader.stdout is not None
    reader.stdout.close()
    reader.stdout = None
    assert reader.communicate(timeout=60)[1] == ""
    assert reader.returncode == (0 if "--help" in words else 1)


def test_a_process_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    for words in (["status", "nope"], [], ["run", "digits-vgg11", "--set", "seed=-1"]):
        process = command(*words, cwd=tmp_path)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert err.startswith("hacscale: ")
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_terminal_without_greek_is_no_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = command("recipes", cwd=tmp_path, env=environment)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "1.065?" in out


def test_the_stored_recipe_is_the_whole_recipe(shell: Shell, runs: Path) -> None:
    directory = begin(shell, "mine", "seed=4", "alpha.trials=3")
    recipe = RunStore(directory).info().recipe
    assert (recipe.seed, recipe.alpha.trials) == (4, 3)
    assert pretty(recipe.limits) == pretty(RECIPES["digits-vgg11"]().limits)
