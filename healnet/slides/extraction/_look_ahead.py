"""Take first looks at slides in processes of their own, one slide ahead of the encoder."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection

from healnet._files import shown
from healnet._processes import start_error
from healnet.slides.extraction._slide_errors import SlideError, error_line
from healnet.slides.extraction._workers import end_with_run
from healnet.slides.extraction.first_look import FirstLook, SlideJob, first_look
from healnet.slides.features.feature_writer import ExtractionSettings

__all__ = ["LookAhead"]


class LookAhead:
    """First looks at slides, each by a process of its own, one slide ahead of the encoder.

    Args:
        jobs: Slides in the order in which their first looks are taken; slides in between may be skipped.
        settings: Settings of the run.
        num_workers: With 0 this process looks, and not ahead.
    """

    def __init__(self, jobs: Sequence[SlideJob], settings: ExtractionSettings, num_workers: int) -> None:
        self._following = {job.name: following for job, following in pairwise(jobs)}
        self._settings, self._num_workers = settings, num_workers
        self._ahead: _Look | None = None

    def of(self, job: SlideJob) -> FirstLook:
        """Return the first look at a slide; that at the following one begins.

        Raises:
            SlideError: The process died, or looking raised an error in it.
            ProcessStartError: The process ended before it began.
            OSError, ValueError: What looking raised, where this process looks.
        """
        if not self._num_workers:
            return first_look(job, self._settings)
        if self._ahead is not None and self._ahead.job is not job:
            self.close()
        look, self._ahead = self._ahead or _Look(job, self._settings), None
        result = look.result()
        following = self._following.get(job.name)
        if following is not None:
            self._ahead = _Look(following, self._settings)
        if isinstance(result, SlideError):
            raise result
        return result

    def close(self) -> None:
        """End the process that looks ahead."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None


class _Look:
    """A first look at one slide by a process of its own.

    This is not a DataLoader's worker because torch raises the error of a dead worker wherever the program is at that moment,
    which is in the middle of another slide. The end of a pipe is noticed where the pipe is read.
    """

    def __init__(self, job: SlideJob, settings: ExtractionSettings) -> None:
        self.job = job
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(target=_send, args=(sender, job, settings), daemon=True)
        self._process.start()
        sender.close()  # the process now holds the only end to write to, which is closed when it dies

    def result(self) -> FirstLook | SlideError:
        started, answer = False, None
        try:
            started = self._receiver.recv()
            answer = self._receiver.recv()
        except (EOFError, OSError):  # before an answer, or within one
            pass
        self._process.join()
        if isinstance(answer, FirstLook):
            return answer
        if answer is None:
            code = self._process.exitcode or 0
            if (
                not started and code > 0
            ):  # an error while it imported what it needs; a signal may come at any time
                raise start_error("extract_features", code)
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            return SlideError(f"RuntimeError: {shown(self.job.path)}: the process that read it died ({how})")
        line, details = answer
        error = SlideError(line)
        error.add_note(details)
        return error

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._receiver.close()


def _send(sender: Connection, job: SlideJob, settings: ExtractionSettings) -> None:
    """Send that this process has started, then a first look.

    Of an error its line and the traceback are sent as text: not every error can be pickled.
    """
    sender.send(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the run, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the run's handler, which raises
    end_with_run(0)
    answer: FirstLook | tuple[str, str]
    try:
        answer = first_look(job, settings)
    except Exception as failure:  # noqa: BLE001  # the run reports it
        answer = (error_line(failure, job.path), traceback.format_exc())
    sender.send(answer)
