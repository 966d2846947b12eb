"""The log of epochs: in order, whatever stands in it."""

import os
from pathlib import Path

from engine.epoch_log import EpochLog, NotedEpoch


def test_epochs_are_read_as_they_were_noted(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "logs" / "epochs.log")
    assert log.read() == []
    for number in (1, 2):
        log.note("abc", number)
        log.note("xyz", number + 5)
    assert log.read()[:2] == [NotedEpoch(os.getpid(), "abc", 1), NotedEpoch(os.getpid(), "xyz", 6)]
    assert (log.numbers("abc"), log.numbers("xyz"), log.numbers("a")) == ([1, 2], [6, 7], [])


def test_torn_lines_are_no_epochs(tmp_path: Path) -> None:
    path = tmp_path / "epochs.log"
    log = EpochLog(path)
    log.note("abc", 1)
    for torn in (b"1.5 host 7 abc x\n", b"1.5 host x abc 2\n", b"\xff\x00 12 abc \xf0"):
        with path.open("ab") as file:
            file.write(torn)
    assert log.numbers("abc") == [1]


def test_where_nothing_can_be_written_no_training_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    EpochLog(tmp_path / "file" / "epochs.log").note("abc", 1)
