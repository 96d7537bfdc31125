"""A signal ends the block like Ctrl-C; handlers of the user's own stay."""

import os
import signal
import threading

import pytest

from healnet.slides.extraction._stop_signals import stopped_by_signals

pytestmark = pytest.mark.posix
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_and_the_end_of_the_block_is_done(number):
    done = []

    def block():
        with stopped_by_signals():
            try:
                os.kill(os.getpid(), number)
            finally:
                done.append(True)

    with pytest.raises(SystemExit) as caught:
        block()
    assert caught.value.code == 128 + number
    assert done == [True]
    assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_DFL] * 2


def test_a_handler_of_the_users_own_and_an_ignored_signal_stay():
    seen = []

    def handler(number, frame):
        seen.append(number)

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopped_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
    assert seen == [signal.SIGTERM]
    assert [signal.getsignal(one) for one in SIGNALS] == [handler, signal.SIG_IGN]


def test_in_a_thread_nothing_is_set():
    seen = []

    def run():
        with stopped_by_signals():
            seen.append([signal.getsignal(one) for one in SIGNALS])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [[signal.SIG_DFL] * 2]
