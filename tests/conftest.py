"""One thread for all tests, no file from outside, and slides that tests make: colored rectangles on glass, of any size."""

import contextlib
import functools
import gc
import os
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

# Tensors here are tiny: threads of several processes that share cores would mostly wait for one another.
# Before torch is imported, and for the processes that tests start. `OMP_NUM_THREADS=2 pytest` runs with two.
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else two of them spin on cores that others need
threadpool_limits(THREADS)  # NumPy's, which a plugin of pytest may have imported before

# How long an example takes, to draw or to run, depends on what else runs on the machine.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_finish():
    """What is imported stays to the end: the garbage collector need not look through it again and again."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


# Systems

SYSTEMS = {"posix": os.name == "posix", "linux": sys.platform == "linux"}


def pytest_runtest_setup(item):
    """Skip what is marked as of a system that this one is not."""
    for name, here in SYSTEMS.items():
        if not here and item.get_closest_marker(name):
            pytest.skip(f"needs {name}")


# Files


class OutsideFile(PermissionError):
    """A test opened a file that a clone of the project in an empty folder would not have beside it."""


class NoOutsideFiles:
    """Let no test open what is neither in the checkout nor in a temporary folder, Python's own or the system's.

    An audit hook raises at the place; where that is caught, the test fails at its end. Files that other C libraries than
    HDF5 and OpenSlide open, and those of programs that tests start, are not seen, but for paths among their arguments.
    """

    EVENTS = ("open", "os.listdir", "os.mkdir", "os.scandir", "subprocess.Popen")
    SYSTEM = "/bin /dev /etc /lib /lib64 /nix /opt /proc /run /sbin /sys /usr /var".split()

    def __init__(self):
        import h5py
        import openslide

        home, root = Path("~").expanduser(), Path(__file__).parents[1]
        self.allowed = {}  # of several folders around a file, the innermost decides; of one named twice, the last
        self.allow(*self.SYSTEM, *filter(None, sys.path))
        self.allow(home, root.parent, value=False)
        # Settings and caches of other packages, there or still to be made (see `_inside`), but not models they downloaded.
        self.home = os.path.realpath(home)
        self.allow(home / "AppData", home / "Library")
        self.allow(home / ".cache/huggingface/hub", home / ".cache/torch/hub", value=False)
        self.allow(sys.prefix, sys.base_prefix, tempfile.gettempdir(), root)
        self.watching, self.opened = False, []
        for module, name in ((h5py.h5f, "open"), (h5py.h5f, "create"), (openslide.lowlevel, "open")):
            setattr(module, name, self._announced(getattr(module, name)))
        sys.addaudithook(self._check)

    def allow(self, *folders, value=True):
        self.allowed = self.allowed | dict.fromkeys(map(os.path.realpath, folders), value)

    @staticmethod
    def _announced(function):
        """The same function, with the event of Python's own `open`: C has none."""

        @functools.wraps(function)
        def opened(path, *args, **kwargs):
            sys.audit("open", path, None, 0)
            return function(path, *args, **kwargs)

        return opened

    def _check(self, event, args):
        if not self.watching or event not in self.EVENTS:
            return
        if event == "subprocess.Popen":
            command = [args[1]] if isinstance(args[1], str | bytes | os.PathLike) else args[1]
            paths = [os.fsdecode(path) for path in (args[2], *command) if path]
            paths = [path for path in paths if Path(path).is_absolute()]
        else:
            paths = [] if args[0] is None or isinstance(args[0], int) else [os.fsdecode(args[0])]
        for path in paths:
            if not self._inside(path):
                self.opened.append(
                    f"{path} ({os.environ.get('PYTEST_CURRENT_TEST', 'while tests are collected')})"
                )
                raise OutsideFile(
                    f"outside of the project: {path}; pieces of real data lie in tests/data/real"
                )

    def _inside(self, path):
        if "/" not in path and os.sep not in path and path not in (os.curdir, os.pardir):
            return True  # a name, perhaps relative to a file descriptor that the event does not tell
        folder = os.path.realpath(path)
        while folder and folder not in self.allowed:
            folder, _, name = folder.rpartition(os.sep)
            if folder == self.home and name.startswith("."):
                return True
        # Elsewhere than on Linux the system's folders are too many to list.
        return self.allowed.get(folder, sys.platform != "linux")

    @contextlib.contextmanager
    def watched(self):
        self.watching = True
        try:
            yield
        finally:
            self.watching = False

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self):
        with self.watched():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self):
        with self.watched():
            return (yield)

    def pytest_runtest_makereport(self, call):
        if call.excinfo and call.excinfo.errisinstance(OutsideFile):
            self.opened.clear()  # the test has failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self):
        result = yield
        opened, self.opened = self.opened, []
        assert not opened, f"opened outside of the project: {', '.join(opened)}"
        return result


FILES = pytest.StashKey[NoOutsideFiles]()


def pytest_configure(config):
    files = config.stash[FILES] = NoOutsideFiles()
    files.allow(*filter(None, [config.getoption("basetemp")]))
    config.pluginmanager.register(files)  # so that the package's doctests are watched too


@pytest.fixture
def whole_files(request):
    """Folder of the whole files of which `tests/data/real` has pieces; only tests of that mark may open it."""
    assert request.node.get_closest_marker("whole_files")
    folder = os.environ.get("HEALNET_DATA")
    if not folder:
        pytest.skip(
            "whole real files are tested where HEALNET_DATA names the folder of slides, tcga and graphs"
        )
    files = request.config.stash[FILES]
    before = files.allowed
    files.allow(folder)
    yield Path(folder)
    files.allowed = before


GLASS = (243, 242, 244)
PURPLE = (150, 80, 160)


def write_slide(
    path,
    size,
    rectangles=(),
    *,
    levels=(1, 4, 16),
    tile=256,
    mpp=0.5,
    texture=None,
    description="",
    mark_levels=False,
):
    """Write a tiled pyramid TIFF as OpenSlide reads it.

    Tiles within one color are compressed once, so that a slide of 40,000 x 40,000 pixels takes well under a second.

    Args:
        path: of the file.
        size: (width, height) of level 0.
        rectangles: (left, top, right, bottom, rgb) in level-0 pixels, later ones on top; rgb "texture" takes the texture.
        levels: downsamples.
        tile: side length.
        mpp: written as TIFF resolution; None writes none.
        texture: function of level-0 (x, y) grids to (h, w, 3), for rectangles of color "texture".
        description: of the first image; one that begins with "Aperio" makes it an Aperio slide.
        mark_levels: set the blue channel to 10 times the level, to see which was read.
    """
    import tifffile

    encoded = {}

    def pixels(left, top, step):
        x, y = left + step * np.arange(tile)[None], top + step * np.arange(tile)[:, None]
        result = np.empty((tile, tile, 3), np.uint8)
        result[:] = GLASS
        for x0, y0, x1, y1, rgb in rectangles:
            inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
            colors = texture(x, y) if isinstance(rgb, str) else np.broadcast_to(rgb, result.shape)
            result[inside] = colors[inside]
        return result

    def color(left, top, step):
        """The one color of a tile, None if it has several."""
        right, bottom, found = left + step * tile, top + step * tile, GLASS
        for x0, y0, x1, y1, rgb in rectangles:
            if x0 <= left and right <= x1 and y0 <= top and bottom <= y1:
                found = None if isinstance(rgb, str) else rgb
            elif x0 < right and left < x1 and y0 < bottom and top < y1:
                found = None
        return found

    def segments(level, step, width, height):
        for row in range(-(-height // tile)):
            for column in range(-(-width // tile)):
                corner = (column * tile * step, row * tile * step)
                flat = color(*corner, step)
                if flat not in encoded or flat is None or mark_levels:
                    values = pixels(*corner, step)
                    if mark_levels:
                        values[..., 2] = 10 * level
                    encoded[flat] = zlib.compress(values.tobytes(), 1)
                yield encoded[flat]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, step in enumerate(levels):
            width, height = size[0] // step, size[1] // step
            resolution = (
                {} if mpp is None else {"resolution": (1e4 / mpp / step,) * 2, "resolutionunit": "CENTIMETER"}
            )
            writer.write(
                segments(level, step, width, height),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                metadata=None,
                description=description if level == 0 else "",
                **resolution,
            )
    return path


@pytest.fixture(scope="session")
def slide_writer():
    pytest.importorskip("openslide", reason="slides need OpenSlide")
    pytest.importorskip("tifffile", reason="the tests' slides are written by tifffile")
    return write_slide


def raw_tables(n, seed):
    """Two tables with gaps, far from mean 0 and deviation 1."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    ids = [f"p{seed}-{i}" for i in range(n)]
    tables = {
        "clinical": pd.DataFrame(60 + 9 * rng.normal(size=(n, 3)), ids, ["age", "grade", "size"]),
        "rna": pd.DataFrame(5 + 2 * rng.normal(size=(n, 7)), ids, [f"G{j}" for j in range(7)]),
    }
    tables["rna"].iloc[::4] = np.nan
    tables["clinical"].iloc[1, 1] = np.nan
    return tables


@pytest.fixture(scope="session")
def trained():
    """A small trained model of two networks."""
    from healnet.data import Cohort
    from healnet.survival import SurvivalTarget
    from healnet.training import Recipe, fit_ensemble

    tables = raw_tables(50, 0)
    rng = np.random.default_rng(9)
    risk = (tables["clinical"]["age"] - 60) / 9
    target = SurvivalTarget(rng.exponential(1000 * np.exp(-risk)), np.arange(50) % 3 > 0)
    return fit_ensemble(Cohort(tables, target, tables["rna"].index), Recipe(members=2, epochs=6))


@pytest.fixture
def new_tables():
    """Tables of new patients for `trained`, as they would be read."""
    return raw_tables(12, 1)
