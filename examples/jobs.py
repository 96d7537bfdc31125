"""Many independent jobs: over processes, resumable, with a bar; what `compare.py` and `missing.py` run on.

A job is a tuple of words, such as (cohort, fold, model). Its rows are kept in a file of its own as soon as it is done, so a
run that was stopped, or another shard of it on another machine, goes on where the folder stands.
"""

import argparse
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

Job = tuple[str, ...]
Work = Callable[[Job], list[dict]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every script of jobs has."""
    parser.add_argument("--output", type=Path, required=True, help="folder of results and pictures")
    parser.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument(
        "--shard", type=shard, default=(0, 1), metavar="I/N", help="every N-th job from the I-th, from 0"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small run, of minutes")


def shard(text: str) -> tuple[int, int]:
    """Read "0/4"."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, got {text}")
    return int(index), int(count)


def check_settings(folder: Path, settings: dict) -> None:
    """Keep what the results depend on, or refuse to mix results of different settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "settings.json", json.dumps(settings, indent=2, default=str, sort_keys=True)
    if path.exists() and path.read_text() != text:
        before, now = json.loads(path.read_text()), json.loads(text)
        changed = sorted(key for key in before | now if before.get(key) != now.get(key))
        sys.exit(f"{folder} holds results with other {', '.join(changed)}; choose another --output")
    write(path, text)


def run(jobs: Sequence[Job], work: Work, folder: Path, workers: int, part: tuple[int, int]) -> pd.DataFrame:
    """Do the jobs of this shard that are still to do; returns the rows of all that are there, of every shard.

    Ctrl-C ends the run, and keeps what was done.
    """
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs[part[0] :: part[1]] if not file_of(folder, job).exists()]
    try:
        if workers > 1 and len(todo) > 1:
            # Spawned, not forked: a fork of a process with threads may hang.
            context = multiprocessing.get_context("spawn")
            try_start(context)
            with context.Pool(min(workers, len(todo)), quiet) as pool:
                keep(pool.imap_unordered(partial(call, work), todo), len(todo), folder)
        else:
            torch.set_num_threads(1)  # operations this small only wait for a second thread
            keep((call(work, job) for job in todo), len(todo), folder)
    except KeyboardInterrupt:
        tqdm.write("stopped: what follows is of the jobs that were finished")
    rows = [
        row for job in jobs if (path := file_of(folder, job)).exists() for row in json.loads(path.read_text())
    ]
    return pd.DataFrame(rows)


def try_start(context: multiprocessing.context.BaseContext) -> None:
    """Start one process that does nothing: a pool would replace processes that cannot start, one after another, for ever."""
    trial = context.Process(target=quiet)
    trial.start()
    trial.join()
    if trial.exitcode:
        raise RuntimeError(
            f"a worker process ended before it began (exit code {trial.exitcode}), see its own error. Each imports the "
            'script that started it, so put what that does under\n\nif __name__ == "__main__":\n    main()\n'
        )


def keep(results: "Sequence", total: int, folder: Path) -> None:
    """Write each job's rows when they come."""
    # The mean speed so far, for jobs differ a lot from one to the next.
    with tqdm(results, total=total, unit="job", smoothing=0) as bar:
        for job, rows in bar:
            bar.set_description(" ".join(job))
            write(file_of(folder, job), json.dumps(rows))


def call(work: Work, job: Job) -> tuple[Job, list[dict]]:
    """One job, named where it fails."""
    try:
        return job, work(job)
    except Exception as error:
        raise RuntimeError(f"job {' '.join(job)}: {error}") from error


def quiet() -> None:
    """A worker has one thread, and leaves Ctrl-C to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def file_of(folder: Path, job: Job) -> Path:
    """Path of the rows of a job."""
    return folder / "jobs" / ("__".join(job).replace(" ", "-").replace("/", "-") + ".json")


def write(path: Path, text: str) -> None:
    """The whole file or the old one, never half of it."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
