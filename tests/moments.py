"""The moments at which a driver changes its run: where something may happen to it."""

import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import engine.local_folder
from cluster.progress import Progress
from engine.folder import Folder
from engine.local_folder import LocalFolder
from engine.remote_folder import RemoteFolder


class Moments:
    """Calls ``act`` at one kind of moment after another, at each kind once.

    A kind is a stage, what is done to which kind of file, and whether it is under way or done.
    Those that have been are in a file, which outlives whom ``act`` kills.
    """

    def __init__(self, file: Path, act: Callable[[str], None]) -> None:
        self.file, self.act = file, act

    @property
    def seen(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def __call__(self, moment: str) -> None:
        if moment not in self.seen:
            with self.file.open("a") as file:
                file.write(f"{moment}\n")
            self.act(moment)


def only_at(moment: str, act: Callable[[], None]) -> Callable[[str], None]:
    return lambda now: act() if now == moment else None


@contextmanager
def told(tell: Callable[[str], None]) -> Generator[None]:
    """Tells of every write and removal while it is under way and when it is done."""
    stage, begin, replace = "data", Progress.begin, engine.local_folder._replace

    def begun(self: Progress, title: str) -> None:
        nonlocal stage
        stage = title
        begin(self, title)

    def kind(verb: str, path: str) -> str:
        folder, name = path.partition("?")[0].split("/")[-2:]
        return re.sub("[0-9a-f]{16,}", "*", f"{stage}: {verb} {folder}/{name}")

    def replace_and_tell(path: Path, data: bytes) -> None:
        moment = kind("write", str(path))
        # Between the file under another name, which is not whole, and the renaming.
        with mock.patch.object(os, "fsync", lambda _: tell(f"{moment}, under way")):
            replace(path, data)
        tell(f"{moment}, done")

    def and_tell(verb: str, action: Callable[..., None]) -> Callable[..., None]:
        def act(self: Folder, name: str, *rest: Any) -> None:
            moment = kind(verb, self.path(name))
            tell(f"{moment}, under way")
            action(self, name, *rest)
            tell(f"{moment}, done")

        return act

    with (
        mock.patch.object(Progress, "begin", begun),
        mock.patch.object(engine.local_folder, "_replace", replace_and_tell),
        mock.patch.object(LocalFolder, "delete", and_tell("remove", LocalFolder.delete)),
        mock.patch.object(RemoteFolder, "write", and_tell("write", RemoteFolder.write)),
        mock.patch.object(RemoteFolder, "delete", and_tell("remove", RemoteFolder.delete)),
    ):
        yield


class Once:
    """Calls ``act`` the first time."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.called = act, False

    def __call__(self) -> None:
        if not self.called:
            self.called = True
            self.act()
