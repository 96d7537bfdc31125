"""Show how far a long run over slides has come."""

from __future__ import annotations

import time

from tqdm.auto import tqdm

__all__ = ["SlideBar"]


class SlideBar:
    """A progress bar over slides that also moves within one, so that the time left is known before the first is done.

    Args:
        slides: Number of slides.
        finished: Number of them that earlier runs did; they do not count into the rate.
        shown: Whether to draw anything.
    """

    def __init__(self, slides: int, finished: int, shown: bool) -> None:
        form = "{l_bar}{bar}| {n:.1f}/{total} slides [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(total=slides, initial=finished, desc="features", bar_format=form, disable=not shown)
        self._tiles, self._begin = 0, time.perf_counter()

    def __enter__(self) -> SlideBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, slide: str, tiles: int, of: int) -> None:
        """Count some tiles of a slide."""
        self._tiles += tiles
        rate = self._tiles / (time.perf_counter() - self._begin)
        self.bar.set_postfix_str(f"{rate:.0f} tiles/s, {slide}", refresh=False)
        self.bar.update(tiles / of)

    def finish(self, done: int, of: int) -> None:
        """Count the rest of a slide that is finished, or given up after `done` of its tiles."""
        self.bar.update(1 - done / of if of else 1)
