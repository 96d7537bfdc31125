"""Worker processes that end when the run that started them does."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

__all__ = ["end_with_run"]


def end_with_run(_: int) -> None:
    """Let this worker process end within a second of the process that started it, however that one ended.

    PyTorch's own watch lets a worker leave its loop, but not without handing over what it has read. A worker that held the
    picture of a slide, which no pipe holds at once, waited for ever after its run was killed.
    """
    run, parent = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        # The run may have ended before this line: then the parent is another process already, and stays.
        while os.getppid() == parent and (run is None or run.is_alive()):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
