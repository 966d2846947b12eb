"""``hacscale submit``, ``logs`` and ``stop``: searches as jobs of a Ray cluster."""

import argparse
import shlex
import sys

from rich.console import Console

from engine.commands.options import Commands
from engine.commands.search import add_search, asked_search


def add(commands: Commands) -> None:
    """Adds the commands."""
    submit = commands.add_parser("submit", help="run a search as a job of a Ray cluster")
    add_search(submit)
    add_job_server(submit, required=True)
    submit.set_defaults(command=_submit)

    logs = commands.add_parser("logs", help="what a job has printed")
    _add_job(logs)
    logs.add_argument("--follow", action="store_true", help="until the job ends")
    logs.set_defaults(command=_logs)

    stop = commands.add_parser("stop", help="stop a job in order; its run can go on later")
    _add_job(stop)
    stop.set_defaults(command=_stop)


def add_job_server(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds the address of a job server."""
    parser.add_argument(
        "--address",
        required=required,
        metavar="http://HOST:8265",
        help="of the cluster's job server",
    )


def show_job(job: str, address: str, console: Console) -> None:
    """Prints the state of a job."""
    from cluster.jobs import Jobs

    details = Jobs(address).details(job)
    console.print(f"{job}: {details.status.lower()}")
    if details.message:
        console.print(details.message, soft_wrap=True)
    console.print(details.entrypoint, soft_wrap=True)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="as `hacscale submit` named it")
    add_job_server(parser, required=True)


def _submit(arguments: argparse.Namespace, console: Console) -> None:
    search = asked_search(arguments)
    words = search.remote_words(arguments)
    from cluster.jobs import Jobs

    job = Jobs(arguments.address).submit(words, search.files, search.name)
    where = f"{shlex.quote(job)} --address {shlex.quote(arguments.address)}"
    console.print(f"{job} runs on the cluster, without this machine; see it with", soft_wrap=True)
    for command in ("status", "logs --follow", "stop"):
        verb, _, option = command.partition(" ")
        console.print(f"  hacscale {verb} {where} {option}".rstrip(), soft_wrap=True)


def _logs(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.jobs import Jobs

    jobs = Jobs(arguments.address)
    if arguments.follow:
        jobs.follow(arguments.job, lambda text: print(text, end="", flush=True))
    else:
        sys.stdout.write(jobs.logs(arguments.job))


def _stop(arguments: argparse.Namespace, console: Console) -> None:
    from cluster.jobs import Jobs

    details = Jobs(arguments.address).stop(arguments.job)
    console.print(f"{arguments.job}: {details.status.lower()}")
    console.print("finished work is kept; the same `hacscale submit` goes on with it")
