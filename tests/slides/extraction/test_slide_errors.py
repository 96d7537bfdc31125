"""Errors in a line, real ones of torch's workers among them, and frames that hold nothing any more."""

import os
import weakref
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from healnet.slides.extraction._slide_errors import SlideError, clear_tracebacks, error_line

SLIDE = Path("a.svs")


class Failing:
    """A data set of one item, which a worker cannot read."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 1

    def __getitem__(self, position):
        self.fail()


class TwoArgumentsError(Exception):
    """An error that torch cannot make again, and sends as a text with its traceback."""

    def __init__(self, what, where):
        super().__init__(f"{what}\n  at {where}")


def refuse():
    raise TwoArgumentsError("damaged", "(3, 5)")


def end():
    os._exit(1)


def failure_of(fail):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever torch makes of it
        next(iter(DataLoader(Failing(fail), batch_size=None, num_workers=1)))
    return caught.value


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError: "),
        (SlideError("OSError: as another process wrote it"), "OSError: as another process wrote it"),
        (
            FileNotFoundError(2, "no such slide", "a.svs"),
            "FileNotFoundError: [Errno 2] no such slide: 'a.svs'",
        ),
    ],
)
def test_the_first_line_of_an_error(failure, line):
    assert error_line(failure, SLIDE) == line


def test_an_error_that_a_worker_sends_as_text():
    failure = failure_of(refuse)
    assert str(failure).startswith("Caught TwoArgumentsError in DataLoader worker process 0.\n")
    assert error_line(failure, SLIDE).endswith("TwoArgumentsError: damaged")
    assert "\n" not in error_line(failure, SLIDE)


def test_a_worker_that_ended_is_named_with_its_slide():
    failure = failure_of(end)
    line = error_line(failure, SLIDE)
    assert line.startswith("RuntimeError: a.svs: the process that read it died (DataLoader worker (pid")
    assert line.endswith(")")


def test_frames_of_an_error_and_of_its_causes_hold_nothing():
    held = []

    def fails(cause):
        local = Failing(refuse)
        held.append(weakref.ref(local))
        if cause is not None:
            raise ValueError from cause
        raise KeyError

    def caught(cause):
        try:
            fails(cause)
        except (KeyError, ValueError) as failure:
            return failure

    failure = caught(caught(None))
    assert all(one() is not None for one in held)
    clear_tracebacks(failure)
    assert [one() for one in held] == [None, None]
