"""One thread for all tests, no file from outside, and slides that tests make: colored rectangles on glass, of any size."""

import contextlib
import functools
import gc
import os
import site
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
threadpool_limits(THREADS)  # NumPy's, which a plugin of pytest may have imported before

# How long an example takes, to draw or to run, depends on what else runs on the machine.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_finish():
    """What is imported stays to the end: the garbage collector need not look through it again and again."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


CHECKOUT = Path(__file__).parents[1]
SYSTEM = (
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/opt",
    "/proc",
    "/run",
    "/sys",
    "/usr",
    "/var",
    "/System",
    "/Library",
)
INSTALLED = (
    sys.prefix,
    sys.base_prefix,
    *site.getsitepackages(),
    site.getusersitepackages(),
    *filter(None, sys.path),
)
_opened: set[str] | None = None  # paths that the running test opened; None between tests


@functools.cache
def allowed_folders():
    """The checkout, temporary folders, Python with its packages, the system, and settings and caches in home."""
    drives = [os.environ[name] for name in ("SystemRoot", "ProgramData") if name in os.environ]
    hidden = [path for path in Path.home().glob(".*") if path.is_dir()]
    whole = [os.environ["HEALNET_DATA"]] if "HEALNET_DATA" in os.environ else []
    every = [CHECKOUT, tempfile.gettempdir(), *SYSTEM, *INSTALLED, *drives, *hidden, *whole]
    forms = [str(form) for path in every for form in {Path(path).absolute(), Path(path).resolve()}]
    return tuple(f"{form}{os.sep}" for form in forms)


def note_opened(event, arguments):
    """Audit hook, which cannot be taken away again and therefore looks whether a test runs."""
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        note_path(arguments[0])


def note_path(path):
    if _opened is not None and isinstance(path, str | bytes | os.PathLike):
        _opened.add(os.fsdecode(path))


def note_calls(owner, name):
    """Note the paths that a library opens by itself, where Python cannot see it."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def noted(self, path, *arguments, **options):
        note_path(path)
        return plain(self, path, *arguments, **options)

    setattr(owner, name, noted)


def pytest_configure():
    sys.addaudithook(note_opened)
    with contextlib.suppress(ImportError):
        import h5py

        note_calls(h5py.File, "__init__")
    with contextlib.suppress(ImportError):
        import openslide

        note_calls(openslide.OpenSlide, "__init__")


@pytest.fixture(autouse=True)
def nothing_from_outside():
    """A test that opens a file or lists a folder outside of the checkout and of temporary folders fails."""
    global _opened
    _opened, folder = set(), Path.cwd()
    yield
    opened, _opened = _opened, None
    paths = {os.path.abspath(folder / path) for path in opened}  # noqa: PTH100  # Path.resolve would follow links
    outside = sorted(path for path in paths if not f"{path}{os.sep}".startswith(allowed_folders()))
    if outside:
        pytest.fail(f"opened outside of the checkout and of temporary folders: {', '.join(outside)}")


@pytest.fixture(scope="session")
def whole_files():
    """Folder of the whole files of which `tests/data/real` has pieces."""
    if not os.environ.get("HEALNET_DATA"):
        pytest.skip(
            "whole real files are tested where HEALNET_DATA names the folder of slides, tcga and graphs"
        )
    return Path(os.environ["HEALNET_DATA"])


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
