"""The slide after this one is looked at while this one is encoded, by a process of its own."""

import multiprocessing
import os
import time

import pytest

from healnet.slides import first_look
from healnet.slides._look_ahead import LookAhead
from healnet.slides.features.feature_writer import ExtractionSettings
from healnet.slides.first_look import SlideJob

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
    looks = LookAhead(jobs, SETTINGS, 1)
    looks.of(jobs[0])
    assert looks.of(jobs[2]).tiles.slide.name == "c"


@pytest.mark.parametrize(("workers", "ahead"), [(0, True), (1, False)])
def test_nothing_is_looked_at_ahead_without_workers_or_where_it_must_not(jobs, looked, workers, ahead):
    looks, others = LookAhead(jobs, SETTINGS, workers), set(multiprocessing.active_children())
    assert looks.of(jobs[0], ahead=ahead).tiles.slide.name == "a"
    assert set(multiprocessing.active_children()) <= others
    assert set(looked()) == {"a"}
    assert (looked()["a"] == [os.getpid()]) is (workers == 0)
