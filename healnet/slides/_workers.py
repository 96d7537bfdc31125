"""Worker processes that end when the run that started them does."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["end_with_run"]


def end_with_run(_: int) -> None:
    """Let this worker process end within a second of the process that started it, however that one ended.

    PyTorch's own watch lets a worker leave its loop, but not without handing over what it has read: seen as one process left
    behind, for ever, by each run that was killed while a worker held the picture of a slide, which no pipe holds at once.
    """
    run = os.getppid()

    def watch() -> None:
        while os.getppid() == run:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
