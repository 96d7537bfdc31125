"""Take first looks at slides in processes of their own, one slide ahead of the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from healnet.slides._workers import one_by_one
from healnet.slides.features.feature_writer import ExtractionSettings
from healnet.slides.first_look import FirstLook, FirstLooks, SlideJob

__all__ = ["LookAhead"]


class LookAhead:
    """First looks at slides, each by a process of its own, one slide ahead of the encoder.

    Args:
        jobs: Slides in the order in which their first looks are taken; slides in between may be passed over.
        settings: Settings of the run.
        num_workers: With 0 this process looks, and not ahead.
    """

    def __init__(self, jobs: Sequence[SlideJob], settings: ExtractionSettings, num_workers: int) -> None:
        self._following = {job.name: following for job, following in pairwise(jobs)}
        self._settings, self._num_workers = settings, num_workers
        self._ahead: tuple[str, Iterator[FirstLook]] | None = None

    def of(self, job: SlideJob, ahead: bool = True) -> FirstLook:
        """Return the first look at a slide; that at the following one begins unless `ahead` is False.

        Raises:
            RuntimeError: The process died.
            OSError, ValueError: What looking raised.
        """
        name, look = self._ahead or ("", iter(()))
        self._ahead = None
        if name != job.name:
            look = self._begin(job)
        result = next(look)
        del look  # before the next worker is forked, which would inherit it
        following = self._following.get(job.name)
        if ahead and following is not None and self._num_workers:
            self._ahead = (following.name, self._begin(following))
        return result

    def _begin(self, job: SlideJob) -> Iterator[FirstLook]:
        return iter(one_by_one(FirstLooks([job], self._settings), min(1, self._num_workers)))
