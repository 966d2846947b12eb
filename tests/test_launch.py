"""Files that start clusters: they fit the schemas, and the SLURM script stops and comes back."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from cluster.launch import TEMPLATES, Launch, render_launch, write_launch
from engine.errors import UserError

SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def launch(**changes) -> Launch:
    plain = {
        "name": "search",
        "recipe": "digits-vgg11",
        "workers": 3,
        "cpus": 8,
        "gpus": 2,
        "image": "registry.example/hacscale:1",
    }
    return Launch(**{**plain, **changes})


# Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "gpus", "workers"), [*product(("ray-up", "ray-up-onprem"), (0, 4), (1, 12))]
)
def test_files_for_ray_up_keep_the_schema_that_ray_ships(kind: str, gpus: int, workers: int):
    config = yaml.safe_load(render_launch(kind, launch(gpus=gpus, workers=workers)))
    jsonschema.validate(config, SCHEMA)
    assert config["max_workers"] == workers
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [command for command in starts if "ray start" in command]
    assert all("RAY_AUTH_MODE=token" in command for command in started)
    assert "--dashboard-host=127.0.0.1" in started[0]
    if kind == "ray-up-onprem":
        assert len(set(config["provider"]["worker_ips"])) == workers
    else:
        resources = config["available_node_types"]["worker"]["resources"]
        assert resources == {"CPU": 8, **({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize(
    ("cpus", "gpus", "instance"),
    [(8, 0, "c5.2xlarge"), (9, 0, "c5.4xlarge"), (8, 1, "g5.2xlarge"), (8, 2, "g5.12xlarge")],
)
def test_a_worker_on_aws_has_the_cores_that_ray_gives(cpus: int, gpus: int, instance: str) -> None:
    config = yaml.safe_load(render_launch("ray-up", launch(cpus=cpus, gpus=gpus)))
    worker = config["available_node_types"]["worker"]["node_config"]
    assert worker["InstanceType"] == instance


def test_machines_that_aws_has_not_are_refused() -> None:
    with pytest.raises(UserError, match="no machine of AWS with 8 cores and 9 GPUs"):
        render_launch("ray-up", launch(gpus=9))


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_rayjob_has_the_documented_fields(gpus: int) -> None:
    job = yaml.safe_load(render_launch("kuberay", launch(gpus=gpus)))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= {
        *("entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("runtimeEnvYAML", "rayClusterSpec"),
    }
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"] == 3
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (str(gpus) if gpus else None)


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_slurm_script_has_no_fault_that_shellcheck_knows(gpus: int, tmp_path: Path) -> None:
    script = tmp_path / "search.sh"
    script.write_text(render_launch("slurm", launch(gpus=gpus)))
    subprocess.run(["bash", "-n", script], check=True)
    subprocess.run([Path(sys.executable).with_name("shellcheck"), script], check=True)
    assert ("#SBATCH --gpus-per-node=2" in script.read_text()) == bool(gpus)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"name": "My Run"}, "--name has at most 40 lower-case letters"),
        ({"name": "a\nb: c"}, "--name has at most"),
        ({"recipe": "x; rm -rf /"}, "--recipe has letters"),
        ({"image": "a: b"}, "--image has letters"),
        ({"workers": 0}, "--workers must be at least 1, not 0"),
        ({"gpus": -1}, "--gpus-per-worker must be at least 0"),
    ],
)
def test_what_would_break_a_file_is_refused(changes: dict[str, object], fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        launch(**changes)


def test_no_file_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "file"
    for kind in TEMPLATES:
        write_launch(kind, launch(), out.with_suffix(f".{kind}"))
    with pytest.raises(UserError, match="is there already"):
        write_launch("slurm", launch(), out.with_suffix(".slurm"))


def test_what_cannot_be_started_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "cluster.yaml"
    with pytest.raises(UserError, match="no machine of AWS with 8 cores and 9 GPUs"):
        write_launch("ray-up", launch(gpus=9), out)
    assert not out.exists()


# SLURM ----------------------------------------------------------------------------------------

FAKES = {
    # Runs the step in a group of its own, and gives it signals as SLURM does: to every process.
    "srun": """
        import os, signal, subprocess, sys
        words = sys.argv[sys.argv.index("bash") :]
        step = subprocess.Popen(words, start_new_session=True)
        signal.signal(signal.SIGUSR1, lambda *_: os.killpg(step.pid, signal.SIGUSR1))
        sys.exit(step.wait())
    """,
    "ray": """
        import subprocess, sys
        words = sys.argv[1:]
        done = subprocess.run(words[words.index("--") + 1 :])
        sys.exit(done.returncode)
    """,
    # Stops in order at USR1 with 130, as the command does; ends by itself where it went on.
    "hacscale": """
        import os, pathlib, signal, sys, time
        runs = pathlib.Path(sys.argv[sys.argv.index("--runs-dir") + 1])
        runs.mkdir(exist_ok=True)
        stopped = runs / "stopped"
        if stopped.exists():
            sys.exit(int((runs / "code").read_text()))
        def stop(*_):
            time.sleep(1.0)  # checkpoints take their time
            stopped.write_text("")
            sys.exit(130)
        signal.signal(signal.SIGUSR1, stop)
        (runs / "began").write_text("")
        time.sleep(60)
    """,
    "scontrol": """
        import os, pathlib, sys
        if sys.argv[1] == "show":
            print("node1")
        else:
            pathlib.Path(os.environ["REQUEUED"]).write_text(" ".join(sys.argv[1:]))
    """,
}


@pytest.fixture
def slurm(tmp_path: Path):
    """Starts the script in a made-up allocation."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, code in FAKES.items():
        lines = [line[8:] for line in code.splitlines()]
        file = bin_folder / name
        file.write_text(f"#!{shutil.which('python3')}\n" + "\n".join(lines))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    script = tmp_path / "search.sh"
    script.write_text(render_launch("slurm", launch()))
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_ID": "77",
        "SLURM_CPUS_PER_TASK": "8",
        "REQUEUED": str(tmp_path / "requeued"),
    }
    return lambda: subprocess.Popen(["bash", script], env=environment, start_new_session=True)


def test_usr1_stops_the_search_in_order_and_queues_the_job_again(slurm, tmp_path: Path) -> None:
    job = slurm()
    began = tmp_path / "runs" / "began"
    latest = time.monotonic() + 30
    while not began.exists():
        assert time.monotonic() < latest
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)  # B: the batch shell alone
    assert job.wait(timeout=30) == 0
    assert (tmp_path / "runs" / "stopped").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 77"


@pytest.mark.parametrize("code", [0, 2])
def test_a_search_that_ends_by_itself_is_not_queued_again(code: int, slurm, tmp_path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "stopped").write_text("")
    (runs / "code").write_text(str(code))
    assert slurm().wait(timeout=30) == code
    assert not (tmp_path / "requeued").exists()
