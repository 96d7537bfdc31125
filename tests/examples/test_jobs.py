"""Jobs are done once, by shard, and kept."""

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import jobs

EVERY = [("acc", str(fold), model) for fold in range(2) for model in ("one model", "another")]


def work(done):
    def one(job):
        done.append(job)
        return [{"model": job[2], "fold": int(job[1])}]

    return one


def test_rows_come_back_in_the_order_of_the_jobs(tmp_path):
    rows = jobs.run(EVERY, work([]), tmp_path, 1, (0, 1))
    assert rows.to_dict("records") == [{"model": model, "fold": int(fold)} for _, fold, model in EVERY]


def test_what_is_done_is_not_done_again(tmp_path):
    done = []
    jobs.run(EVERY[:3], work(done), tmp_path, 1, (0, 1))
    rows = jobs.run(EVERY, work(done), tmp_path, 1, (0, 1))
    assert done == EVERY
    assert len(rows) == 4


def test_shards_share_the_jobs_and_the_results(tmp_path):
    first, second = [], []
    assert len(jobs.run(EVERY, work(first), tmp_path, 1, (0, 3))) == 2
    assert len(jobs.run(EVERY, work(second), tmp_path, 1, (1, 3))) == 3
    assert first == [EVERY[0], EVERY[3]]
    assert second == [EVERY[1]]


def test_an_interrupt_keeps_what_is_done(tmp_path, capsys):
    def interrupted(job):
        if job == EVERY[2]:
            raise KeyboardInterrupt
        return [{"model": job[2]}]

    assert len(jobs.run(EVERY, interrupted, tmp_path, 1, (0, 1))) == 2
    assert "stopped" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.part"))


def test_a_job_that_fails_is_named(tmp_path):
    def failing(job):
        raise ValueError("no events")

    with pytest.raises(RuntimeError, match=r"^job acc 0 one model: no events$"):
        jobs.run(EVERY, failing, tmp_path, 1, (0, 1))


def test_other_settings_are_not_mixed_in(tmp_path):
    jobs.check_settings(tmp_path / "new", {"seed": 0, "recipe": {"epochs": 5}})
    jobs.check_settings(tmp_path / "new", {"recipe": {"epochs": 5}, "seed": 0})
    with pytest.raises(SystemExit, match=r"holds results with other recipe; choose another --output$"):
        jobs.check_settings(tmp_path / "new", {"seed": 0, "recipe": {"epochs": 6}})
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["recipe"] == {"epochs": 5}


@pytest.mark.parametrize("text", ["2/2", "a/2", "1", "-1/2"])
def test_a_shard_that_cannot_be(text):
    assert jobs.shard("1/2") == (1, 2)
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^expected I/N with 0 <= I < N, got {text}$"):
        jobs.shard(text)
