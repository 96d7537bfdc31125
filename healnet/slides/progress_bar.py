"""How far a long run over slides has come."""

from __future__ import annotations

import time

from healnet._files import need

__all__ = ["SlideBar"]


class SlideBar:
    """A progress bar over slides that also moves within one, so that the time left is known before the first is done.

    Args:
        slides: how many there are.
        finished: how many of them earlier runs did; they do not count into the rate.
        shown: whether to draw anything.
    """

    def __init__(self, slides: int, finished: int, shown: bool) -> None:
        self.slides, self.finished, self.shown = slides, finished, shown
        self.tiles, self.begin = 0, time.perf_counter()

    def __enter__(self) -> SlideBar:
        form = "{l_bar}{bar}| {n:.1f}/{total} slides [{elapsed}<{remaining}{postfix}]"
        if self.shown:
            tqdm = need("tqdm", "tqdm", "the progress bar").tqdm
            self.bar = tqdm(total=self.slides, initial=self.finished, desc="features", bar_format=form)
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.close()

    def advance(self, slide: str, tiles: int, of: int) -> None:
        """Some tiles of a slide are done."""
        self.tiles += tiles
        if self.shown:
            rate = self.tiles / (time.perf_counter() - self.begin)
            self.bar.set_postfix_str(f"{rate:.0f} tiles/s, {slide}", refresh=False)
            self.bar.update(tiles / of)

    def finish(self, done: int, of: int) -> None:
        """A slide is done or given up; what it still owed is made up for."""
        if self.shown:
            self.bar.update(1 - done / of if of else 1)
