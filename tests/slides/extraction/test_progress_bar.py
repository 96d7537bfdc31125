"""The bar adds up to the number of slides, whatever becomes of each."""

import re

import pytest

from healnet.slides.extraction.progress_bar import SlideBar


def test_the_bar_moves_within_a_slide_and_ends_full(capsys):
    with SlideBar(slides=4, finished=1, shown=True) as bar:
        bar.advance("a", 30, of=40)
        assert bar.bar.n == pytest.approx(1.75)
        bar.advance("a", 10, of=40)
        bar.finish(40, of=40)
        assert bar.bar.n == pytest.approx(2)
        bar.advance("b", 5, of=50)
        bar.finish(5, of=50)  # given up
        assert bar.bar.n == pytest.approx(3)
        bar.finish(0, of=0)  # without tissue, or never opened
        assert bar.bar.n == pytest.approx(4)
    assert re.search(
        r"features: 100%\|█+\| 4\.0/4 slides \[\d\d:\d\d<\d\d:\d\d, \d+ tiles/s, b\]", capsys.readouterr().err
    )


def test_a_bar_that_is_not_shown_writes_nothing(capsys):
    with SlideBar(slides=2, finished=0, shown=False) as bar:
        bar.advance("a", 30, of=40)
        bar.finish(30, of=40)
    assert capsys.readouterr().err == ""
