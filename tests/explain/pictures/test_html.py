import html as stdlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.explain.pictures import _html

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>",
    "</title></head><body onload=alert(1)>",
    "&lt;b&gt; &amp; &#60;",
    "javascript:alert(1)",
    "-->]]><!--",
    "../../etc/passwd",
    "C:\\x|y?*:",
    "\x00\x07\x1b[31m",
    "\u202egnp.exe",
    "\ud800 half a surrogate",
    "{curly} %s %00",
]
# The only tags and attributes this module writes.
TAGS = set(
    "html head meta title style body main h1 h2 bdi div dl dt dd section p table colgroup col thead tbody tr th td i svg "
    "line text polyline circle img picture source footer".split()
)


class Reader(HTMLParser):
    """Collects tags, attributes and text as a browser would take them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def whole(text):
    table = _html.bars([text], [1.0], [text], heads=(text, text, text))
    cards = [_html.card(text, table, text), _html.card(text, _html.curve([1, 2], [0.9, 0.4], text))]
    image = b"\x89PNG\r\n\x1a\n"
    picture = _html.picture(image, text, narrow=image)
    return _html.page(text, _html.facts([(text, text)]), [*cards, _html.card(text, picture, wide=True)], text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    plain, found = Reader(whole("plain")), Reader(whole(text))
    assert found.tags == plain.tags
    assert set(found.tags) <= TAGS
    assert [name for name, _ in found.attributes] == [name for name, _ in plain.attributes]
    seen = stdlib.unescape(_html.escaped(text))
    assert sum(seen in part for part in found.texts) >= 8


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_any_text_stays_text(text):
    assert Reader(whole(text)).tags == Reader(whole("plain")).tags


def test_a_page_loads_nothing_and_runs_nothing():
    text = whole("x")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"https?:|//[a-z]|<script|<link|<iframe|@import|url\(|\bon[a-z]+=|href=", text)
    assert 'name="viewport"' in text
    assert text.startswith("<!DOCTYPE html>")


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_file_names_are_safe_and_differ(first, second):
    a, b = _html.safe_name(first), _html.safe_name(second)
    assert re.fullmatch(r"[A-Za-z0-9_.%-]+", a)
    assert (a == b) == (first == second)


def test_long_ids_are_cut_and_still_differ():
    a, b = _html.safe_name("x" * 500 + "a"), _html.safe_name("x" * 500 + "b")
    assert len(a) == len(b) == 137
    assert a != b
    with pytest.raises(ValueError, match=r"^expected a patient id, got an empty one$"):
        _html.safe_name("")


def test_bars_point_to_their_side_and_share_one_scale():
    found = _html.bars(["up", "down", "absent"], [2.0, -1.0, np.nan], ["a", "b", "c"])
    marks = re.findall(r'<i class="(\w+)" style="(\w+):50%;width:([\d.]+)%"', found)
    assert marks == [("up", "left", "50.00"), ("down", "right", "25.00")]
    assert _html.bars(["zero"], [0.0]).count("<i ") == 0
    with pytest.raises(ValueError, match=r"^expected 2 values and notes, got \(1,\) and 1$"):
        _html.bars(["a", "b"], [1.0])


def test_the_curve_goes_through_its_points_and_finds_the_median():
    found = _html.curve([0, 10, 20], [1.0, 0.75, 0.25], "months")
    points = re.search(r'polyline points="([^"]*)"', found)[1]
    assert points == "44.00,12.00 240.00,61.00 436.00,159.00"
    assert "median 15<" in found
    assert "time (months)" in found
    assert "median" not in _html.curve([0, 10], [1.0, 0.75], "months")
    started = re.search(r'polyline points="([^"]*)"', _html.curve([10, 20], [0.75, 0.25], "months"))[1]
    assert started == points
    assert "median 2773<" in _html.curve([0, 2772.7], [1.0, 0.5], "days")


def test_a_curve_of_steps_falls_at_its_times_only():
    found = _html.curve([0, 10, 20], [0.75, 0.25, 0.25], "months", steps=True)
    points = re.search(r'polyline points="([^"]*)"', found)[1].replace(".00", "")
    assert points == "44,12 44,12 44,61 240,61 240,159 436,159 436,159"
    assert "median 10<" in found
    assert "median 20<" in _html.curve([10, 20], [0.75, 0.5], "months", steps=True)


@pytest.mark.parametrize(
    ("end", "ticks"), [(10, [0, 2, 4, 6, 8, 10]), (4673, [0, 1000, 2000, 3000, 4000]), (1.9, None)]
)
def test_ticks_are_round_and_few(end, ticks):
    found = _html._ticks(end)
    assert 4 <= len(found) <= 9
    assert found[-1] <= end
    if ticks is not None:
        assert found == ticks


def test_wrong_curves_and_pictures_are_refused():
    with pytest.raises(
        ValueError,
        match=r"^expected finite increasing times >= 0 and a survival for each, got \(2,\) and \(2,\)$",
    ):
        _html.curve([2, 1], [1, 0.5], "days")
    with pytest.raises(ValueError, match=r"^expected survival probabilities in \[0, 1\]$"):
        _html.curve([1, 2], [1.5, 0.5], "days")
    with pytest.raises(ValueError, match=r"^expected the bytes of a PNG, got b'GIF89a'$"):
        _html.picture(b"GIF89a", "x")


def test_a_curve_that_ends_at_infinity_is_refused():
    with pytest.raises(ValueError, match=r"^expected finite increasing times >= 0 and a survival for each"):
        _html.curve([1.0, np.inf], [0.9, 0.5], "days")
