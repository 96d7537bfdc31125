"""The slide after this one is looked at while this one is encoded, by a process of its own."""

import multiprocessing
import os
import signal
import time

import pytest

from healnet.slides.extraction import first_look
from healnet.slides.extraction._look_ahead import LookAhead
from healnet.slides.extraction._slide_errors import SlideError
from healnet.slides.extraction.first_look import SlideJob
from healnet.slides.features.feature_writer import ExtractionSettings

forked = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="processes are forks, which know of a changed class"
)
SETTINGS = ExtractionSettings(64, 0.5, 0, 0.5, 0.0)


@pytest.fixture
def jobs(slide_writer, tmp_path):
    painted = [(0, 0, 300, 200, (150, 80, 160))]
    return [
        SlideJob(name, slide_writer(tmp_path / f"{name}.tif", (300, 200), painted, levels=(1,)), None)
        for name in "abc"
    ]


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """What was looked at so far: name -> the process that did, as files that processes leave."""
    original, folder = first_look.SlideJob.tiles, tmp_path / "looked"
    folder.mkdir()

    def noted(job, settings):
        with (folder / job.name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return original(job, settings)

    monkeypatch.setattr(first_look.SlideJob, "tiles", noted)

    def read():
        return {path.name: [int(line) for line in path.read_text().split()] for path in folder.iterdir()}

    return read


def appears(name, looked):
    until = time.monotonic() + 20
    while name not in looked() and time.monotonic() < until:
        time.sleep(0.02)
    return name in looked()


def test_the_next_slide_is_looked_at_ahead_and_only_once(jobs, looked):
    looks = LookAhead(jobs, SETTINGS, 1)
    assert [tile.tolist() for tile in looks.of(jobs[0]).tiles.coords[:2]] == [[0, 0], [64, 0]]
    assert appears("b", looked)
    assert "c" not in looked()
    assert looks.of(jobs[1]).tiles.slide.name == "b"
    assert looks.of(jobs[2]).tiles.slide.name == "c"
    processes = looked()
    assert [len(processes[name]) for name in "abc"] == [1, 1, 1]
    assert os.getpid() not in {process for found in processes.values() for process in found}


def test_a_slide_that_was_passed_over_is_not_taken_for_the_next(jobs, looked):
    looks, others = LookAhead(jobs, SETTINGS, 1), set(multiprocessing.active_children())
    looks.of(jobs[0])
    (ahead,) = set(multiprocessing.active_children()) - others
    assert looks.of(jobs[2]).tiles.slide.name == "c"
    assert not ahead.is_alive()


def test_the_look_ahead_ends_with_the_run(jobs):
    looks, others = LookAhead(jobs, SETTINGS, 1), set(multiprocessing.active_children())
    looks.of(jobs[0])
    (ahead,) = set(multiprocessing.active_children()) - others
    looks.close()
    assert not ahead.is_alive()
    looks.close()


def test_without_workers_this_process_looks_and_not_ahead(jobs, looked):
    looks, others = LookAhead(jobs, SETTINGS, 0), set(multiprocessing.active_children())
    assert looks.of(jobs[0]).tiles.slide.name == "a"
    assert set(multiprocessing.active_children()) <= others
    assert looked() == {"a": [os.getpid()]}


class TwoArgumentsError(Exception):
    """An error that can be pickled, and not made again from what was pickled."""

    def __init__(self, what, where):
        super().__init__(f"{what}\n  at {where}")


def refuse(job, settings):
    raise TwoArgumentsError("damaged", "(3, 5)")


def die(job, settings):
    os.kill(os.getpid(), signal.SIGKILL)


def end(job, settings):
    os._exit(3)


@forked
@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (refuse, "TwoArgumentsError: damaged"),
        (die, "RuntimeError: {path}: the process that read it died (killed by signal 9)"),
        (end, "RuntimeError: {path}: the process that read it died (exit code 3)"),
    ],
)
def test_a_look_that_fails_is_that_slides_error_and_the_next_has_begun(jobs, looked, monkeypatch, fail, line):
    original = SlideJob.tiles
    monkeypatch.setattr(SlideJob, "tiles", lambda job, _: (fail if job.name == "b" else original)(job, _))
    looks = LookAhead(jobs, SETTINGS, 1)
    assert looks.of(jobs[0]).tiles.slide.name == "a"
    with pytest.raises(SlideError) as caught:
        looks.of(jobs[1])
    assert str(caught.value) == line.format(path=jobs[1].path)
    assert [note.splitlines()[0] for note in getattr(caught.value, "__notes__", [])] == (
        ["Traceback (most recent call last):"] if fail is refuse else []
    )
    assert appears("c", looked)
    assert looks.of(jobs[2]).tiles.slide.name == "c"
    assert len(looked()["c"]) == 1
