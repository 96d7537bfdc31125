"""Worker processes that read items one at a time, and end when the run that started them does."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

__all__ = ["end_with_run", "one_by_one"]

_Item = TypeVar("_Item")


def end_with_run(_: int) -> None:
    """Make this worker process end within a second after the process that started it, even if that was killed.

    PyTorch's own check ends the loop of such a worker, but the process stays until all that it has read is sent. The picture
    of a slide is larger than the buffer of a pipe, so a worker that held one waited forever after its run was killed.
    """
    run, parent = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        # The run may have ended before this line: then the parent is already another process, which does not end.
        while os.getppid() == parent and (run is None or run.is_alive()):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def one_by_one(items: Dataset[_Item], workers: int) -> DataLoader[_Item]:
    """Return a loader of the items as they are, each read by one of the worker processes, or by this one with 0 workers."""
    return DataLoader(
        items, batch_size=None, collate_fn=_as_it_is, num_workers=workers, worker_init_fn=end_with_run
    )


def _as_it_is(value: Any) -> Any:
    return value
