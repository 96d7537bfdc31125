"""Shared by the benchmarks: medians, peak memory, and a table at the end of the run."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROWS: dict[str, list[str]] = {}


def _status(field: str) -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) * 1024


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes that the process grew by at its highest while `function` ran; None where the kernel does not tell."""
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status("VmRSS")
    except OSError:
        return None
    result = function()
    peak = _status("VmHWM") - before
    del result
    return max(peak, 0)


def median_seconds(function: Callable[[], object], rounds: int = 3) -> float:
    """The median of `rounds` runs, after one run that is not counted when there is more than one round."""
    if rounds > 1:
        function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.fixture(scope="session", name="peak_memory")
def _peak_memory():
    return peak_memory


@pytest.fixture(scope="session", name="median_seconds")
def _median_seconds():
    return median_seconds


@pytest.fixture(scope="session")
def report():
    """`report(title, row)` collects the rows of a table that is printed when all benchmarks are done."""

    def add(title: str, row: str) -> None:
        ROWS.setdefault(title, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter):
    for title, rows in ROWS.items():
        terminalreporter.write_line("")
        terminalreporter.write_line(title)
        for row in rows:
            terminalreporter.write_line(row)
