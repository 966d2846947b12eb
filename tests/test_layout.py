"""The layout: imports go one way, nothing reads pickle, and the reference pages are complete."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin

import pytest

import engine
from engine.cli import main
from engine.peers.methods import METHODS
from engine.recipe import Recipe
from engine.results import Result
from engine.training import Training

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "engine": {"engine"},
    "searchers": {"searchers", "engine"},
    "trainables": {"trainables", "engine"},
    "cluster": {"cluster", "searchers", "trainables", "engine"},
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
COMMANDS = (
    *("run", "resume", "sample", "runs", "submit", "logs", "stop", "plan", "doctor", "cluster"),
    *("status", "report", "allocate", "export", "recipes", "check", "profile"),
    *("compare", "fidelity"),
)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module or ""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


# Imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).parts[0]
    allowed = PACKAGES[package]
    if path.parent == ROOT / "engine" / "commands":
        # A command may use what it starts, but only once it starts it.
        outside = [
            node
            for node in tree.body
            if not isinstance(node, ast.FunctionDef)
            and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
        assert {n.split(".")[0] for node in outside for n in imports(node)}.isdisjoint({"cluster"})
        allowed = {"engine", "cluster"}
    used = {name.split(".")[0] for name in imports(tree)}
    assert used & PACKAGES.keys() <= allowed
    if package == "engine":
        assert not used & {"ray"}


@pytest.mark.long
def test_no_module_of_the_engine_loads_ray_or_what_stands_above_it() -> None:
    paths = [path.relative_to(ROOT) for path in (ROOT / "engine").rglob("[!_]*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    loaded = python(f"import sys, {', '.join(modules)}; print(*sys.modules)").split()
    assert set(modules) <= set(loaded)
    assert not {name.split(".")[0] for name in loaded} & {
        "ray",
        "cluster",
        "searchers",
        "trainables",
    }


def test_packages_and_the_command_are_light_until_they_are_used() -> None:
    names = "engine, engine.cli, engine.store, cluster, searchers, trainables"
    loaded = set(python(f"import sys, {names}; print(*sys.modules)").split())
    assert not loaded & {"torch", "ray", "scipy", "matplotlib", "cluster.driver"}


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in FILES}
    installed = project["tool"]["setuptools"]["packages"]
    assert set(installed) == {".".join(folder.parts) for folder in folders}
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


def test_the_names_of_the_python_api_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "engine" / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == {name: f"engine.{module}" for name, module in engine._MODULES.items()}
    for name, module in declared.items():
        assert getattr(engine, name) is getattr(sys.modules[module], name)
    assert set(declared) <= set(dir(engine))
    with pytest.raises(AttributeError, match="has no attribute 'Recipes'"):
        engine.Recipes  # noqa: B018


# Pickle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_pickle_or_runs_text(path: Path) -> None:
    tree = ast.parse(path.read_text())
    used = {name.split(".")[0] for name in imports(tree)}
    assert not used & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("eval", "yaml.load", "yaml.unsafe_load", "yaml.full_load")
        if name == "exec":
            # A plan's networks are programs: the script that a user starts on the device runs
            # them, and the program itself only what it has just written.
            assert path.name in ("bench.py", "exchange.py")
        if name == "torch.load":
            assert options.get("weights_only") == "True"
        assert options.get("allow_pickle", "False") == "False"


# Documentation --------------------------------------------------------------------------------


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields of a tree of dataclasses; a dictionary's keys are GROUP."""
    for field in fields(kind):
        name = prefix + field.name
        values = get_args(field.type)[1] if get_origin(field.type) is dict else None
        if values is not None and is_dataclass(values):
            yield from leaves(values, f"{name}.GROUP.")
        elif is_dataclass(field.type) and field.type is not Training:
            yield from leaves(field.type, f"{name}.")
        else:
            yield name


def documented(page: str) -> list[str]:
    """First cells of the tables of a page."""
    return re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)


def test_the_recipe_page_is_that_of_the_docstrings() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text()
    assert page == reference().render_recipe(), "run `python docs/reference.py`"


def test_the_recipe_page_has_every_field_once() -> None:
    assert documented("recipe.md") == [
        *(name for name in leaves(Recipe) if "." not in name),
        *(name for name in leaves(Recipe) if "." in name),
        *(field.name for field in fields(Training)),
    ]


def test_the_example_on_the_recipe_page_is_a_recipe(tmp_path: Path) -> None:
    from engine.recipe import load_recipe

    page = (ROOT / "docs" / "recipe.md").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert load_recipe(file).train.epochs == 40


def test_the_result_page_has_every_field_once() -> None:
    assert documented("result.md") == list(leaves(Result))


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_comparison_page_has_every_method_in_order() -> None:
    assert documented("compare.md") == [method.name for method in METHODS]


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=str)
def test_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_command_page_has_every_command_and_option(capsys) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert set(re.findall(r"^    (\w+)  ", help_of(capsys), re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"^\| `hacscale (\w+)", page, re.MULTILINE)) == set(COMMANDS)
    options: dict[str, set[str]] = {}
    for command in COMMANDS:
        text = help_of(capsys, command)
        assert text.startswith(f"usage: hacscale {command}")
        for option in set(re.findall(r"--[a-z][a-z-]*", text.partition("options:")[2])):
            options.setdefault(option, set()).add(command)
    del options["--help"]
    rows = re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \|", page, re.MULTILINE)
    said = {option: set(re.findall(r"`(\w+)`", commands)) for option, commands in rows}
    said["--runs-dir"] = set(COMMANDS) - said["--runs-dir"]  # "all but"
    assert said == options
