"""Turn slides into feature files: tiles read by worker processes, encoded in batches, resumable at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from healnet._evaluation import evaluating
from healnet._files import leftovers, shown
from healnet._processes import ProcessStartError, check_start
from healnet.slides.extraction._disk_space import NO_SPACE, bytes_needed, full_disk_error, refuse_full_disk
from healnet.slides.extraction._look_ahead import LookAhead
from healnet.slides.extraction._slide_errors import clear_tracebacks, error_line
from healnet.slides.extraction._stop_signals import stopped_by_signals
from healnet.slides.extraction._workers import end_with_run, one_by_one
from healnet.slides.extraction.first_look import FirstLook, ScoredTiles, SlideJob, SlideSizes
from healnet.slides.extraction.progress_bar import SlideBar
from healnet.slides.extraction.quality_picture import quality_picture, write_jpeg
from healnet.slides.extraction.slide_locks import SlideLocks
from healnet.slides.features.feature_writer import (
    ExtractionSettings,
    FeatureFolder,
    FeatureWriter,
    Layout,
    finished_result,
)
from healnet.slides.quality_table import SlideResult, write_quality_table
from healnet.slides.slide_bounds import Origin
from healnet.slides.slide_files import match_slide_mpp, named_slides
from healnet.slides.tile_encoder import Encoder, TileEncoder, device_of, encoders_by_name
from healnet.slides.tiles import Tiles
from healnet.slides.tissue_files import write_tissue

__all__ = ["extract_features"]

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at slides that other runs hold
MUCH_PEN = 0.5  # part of tissue and pen marks together


def extract_features(
    slides: Iterable[str | Path],
    encoder: Encoder | Mapping[str, Encoder],
    output: str | Path,
    *,
    encoder_name: str | None = None,
    size: int | None = None,
    mpp: float = 0.5,
    overlap: int = 0,
    tissue_fraction: float = 0.1,
    min_sharpness: float = 0.0,
    slide_mpp: float | Mapping[str, float] | None = None,
    coords: str | Path | None = None,
    masks: str | Path | None = None,
    outline_origin: Origin | None = None,
    tissue_options: Mapping[str, Any] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    layout: Layout = "trident",
    batch_size: int = 64,
    num_workers: int = 2,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> list[SlideResult]:
    """Encode the tissue of many slides, each to ``output/<slide>.h5`` in TRIDENT's format, as `read_patches` reads it.

    Files are written atomically: kill the run at any moment and start it again with the same arguments; it goes on
    with the first slide that has no file. Any number of runs, on any number of machines, may be started on one folder with
    the same slides: they share the work, slide by slide, and each returns when all slides are done. A slide that fails is
    reported and skipped; a full disk stops the run. A warning is logged where pen marks cover more than the tissue that
    they leave. At the end ``output/qc.csv`` has a row for every slide (see `SlideResult`), ``output/tissue/<slide>.jpg``
    shows tissue, tiles and what was left out, and ``output/tissue/<slide>.geojson`` has the tissue's outlines for QuPath,
    where they can be edited and used as `masks`.

    Args:
        slides: Files and folders that `Slide` reads; their names without suffix must differ.
        encoder: Callable from (b, 3, size, size) to (b, d), or several by name, for which the pixels are read once and
            features go to ``output/features_<name>/`` (TRIDENT) or ``output/<name>/`` (CLAM). A module is put into
            evaluation mode for the run, and back; it is not moved.
        output: Folder of the feature files; created if missing.
        encoder_name: Name written into the files; the class or function's name by default.
        size: Side length of a tile in pixels; by default 256, or that of `coords`.
        mpp: Microns per pixel of a tile; 0.5 is 20x. Not used with `coords`.
        overlap: Overlap of neighboring tiles, in pixels.
        tissue_fraction: Least part of a tile that is tissue.
        min_sharpness: Least `sharpness` of a tile; blurrier ones are left out. See the median in ``qc.csv`` first.
        slide_mpp: Microns per level-0 pixel, for all slides or by name, instead of what their files say or do not.
        coords: Folder of coordinates that exist: CLAM's ``patches/`` or TRIDENT's. Tiles lie there, and no tissue is looked
            for. A slide without a file fails.
        masks: Folder of tissue masks instead of the tissue that would be found: ``<slide>.geojson`` of polygons, as
            QuPath exports annotations, or ``<slide>.png``.
        outline_origin: "bounds" or "level0", what outlines of slides with bounds count from; see `read_tissue`.
        tissue_options: Options of `Slide.tissue` by name, such as ``{"pen": False}``, or a `segment` function of a module's
            own, which is called in another process: a network best loads itself at its first call.
        transform: Function of one (3, size, size) uint8 tile to what the encoder takes, run by the workers. By default the
            encoder gets float32 from 0 to 1; pass a transform, or wrap the encoder, to apply its normalization.
        layout: "trident", or "clam" for ``h5_files/``, ``pt_files/`` and ``patches/``, as CLAM's own loaders expect.
        batch_size: Tiles per call of the encoder.
        num_workers: Processes that read tiles. With 0 this process reads them, and ends with a slide that crashes OpenSlide.
        device: Device of the tiles; by default that of the encoder's parameters.
        autocast: Type for mixed precision, as torch.bfloat16; None keeps full precision.
        progress: Show a bar with slides, tiles per second and time left.

    Returns:
        The result of each slide, in the order of names.

    Raises:
        ValueError: Two slides of one name, settings that cannot be or differ from those of files in `output`, an encoder
            that does not return (b, d) finite floating point, or whose features differ from run to run.
        OSError: The disk is full; says for which file and how much space it needs.
        RuntimeError: A script without the guard of the example, where processes are not forked.

    Example, with a torchvision model that was trained on normalized pictures::

        if __name__ == "__main__":  # worker processes import the script
            model = torchvision.models.resnet50(weights="DEFAULT").cuda().eval()
            model.fc = torch.nn.Identity()
            normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            extract_features(
                sorted(Path("slides").glob("*.svs")),
                torch.nn.Sequential(normalize, model),
                "features",
                encoder_name="resnet50",
                device="cuda",
                autocast=torch.float16,
            )
            bag = read_patches("features/slide-1.h5")
    """
    if num_workers:
        check_start("extract_features")
    if sum(given is not None for given in (coords, masks, tissue_options)) > 1:
        raise ValueError("expected one of coords, masks and tissue_options, got more")
    own = coords is None
    settings = ExtractionSettings(
        (size or 256) if own else size,
        mpp if own else None,
        overlap if own else 0,
        tissue_fraction if own else 0.0,
        min_sharpness,
    )
    places: dict[str, Any] = {
        "coords": None if own else Path(str(coords)),
        "masks": None if masks is None else Path(masks),
    }
    named = named_slides(slides)
    scales = match_slide_mpp(slide_mpp, [name for name, _ in named])
    places |= {"origin": outline_origin, "tissue": tissue_options or {}}
    jobs = {name: SlideJob(name, path, scales[name], **places) for name, path in named}
    encoders = encoders_by_name(encoder, encoder_name)
    output = Path(output)
    (output / "tissue").mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), ExitStack() as stack:
        for one in encoders.values():
            stack.enter_context(evaluating(one))
        folders = []
        for name, one in encoders.items():
            place = (
                output / (name if layout == "clam" else f"features_{name}")
                if isinstance(encoder, Mapping)
                else output
            )
            encode = TileEncoder(one, device_of(one, device), autocast)
            folder = FeatureFolder(place, name, encode, encode.probe(settings.size or 256, transform), layout)
            for file in folder.files("any"):
                file.parent.mkdir(parents=True, exist_ok=True)
            folders.append(folder)
        run = _Run(jobs, settings, folders, output, transform, batch_size, num_workers)
        run.adopt_finished()
        stack.enter_context(stopped_by_signals())
        stack.callback(run.write_table)  # Ctrl-C and signals too leave a table of what was done
        locks = stack.enter_context(SlideLocks(output))
        bar = stack.enter_context(SlideBar(len(jobs), len(run.results), progress))
        run.share(locks, bar)
        run.sweep(locks)
    return run.in_order()


@dataclass
class _Run:
    """The state of one run: what it has to do, how, and what is done."""

    jobs: dict[str, SlideJob]
    settings: ExtractionSettings
    folders: list[FeatureFolder]
    output: Path
    transform: Callable[[Tensor], Tensor] | None
    batch_size: int
    num_workers: int

    def __post_init__(self) -> None:
        self.results: dict[str, SlideResult] = {}

    def in_order(self) -> list[SlideResult]:
        """The results so far, in the order of the slides."""
        return [self.results[name] for name in self.jobs if name in self.results]

    def write_table(self) -> None:
        """Write ``qc.csv``; a disk without space for it is logged, and hides no other error."""
        try:
            write_quality_table(self.output / "qc.csv", self.in_order())
        except OSError as error:
            logger.error("%s: not written (%s)", shown(self.output / "qc.csv"), error)

    def adopt_finished(self) -> None:
        """Take over what earlier runs finished.

        Raises:
            ValueError: Files of other settings or another encoder; nothing has been done yet.
        """
        there = [
            job
            for job in self.jobs.values()
            if any(folder.path(job.name).exists() for folder in self.folders)
        ]
        for job, size in zip(there, self._sizes(there), strict=True):
            self._adopt(job, size)

    def _sizes(self, jobs: list[SlideJob]) -> list[tuple[int, int] | None]:
        workers = min(self.num_workers, len(jobs))
        try:
            return list(one_by_one(SlideSizes(jobs), workers))
        except RuntimeError:
            # A slide that ends the process that opens it has not been replaced by a sound one.
            return [None] * len(jobs)

    def share(self, locks: SlideLocks, bar: SlideBar) -> None:
        """Do every slide that no other run does, then those that other runs gave up, until all are done."""
        waiting = [name for name in self.jobs if name not in self.results]
        while waiting:
            held: list[str] = []
            jobs = [self.jobs[name] for name in waiting]
            with closing(LookAhead(jobs, self.settings, self.num_workers)) as looks:
                for name in waiting:
                    if not locks.take(name):
                        held.append(name)
                        continue
                    try:
                        self._do(self.jobs[name], looks, bar)
                    finally:
                        locks.release(name)
            if len(held) == len(waiting):
                time.sleep(POLL)
            waiting = held

    def sweep(self, locks: SlideLocks) -> None:
        """Remove what killed runs left of these slides; what is at work is locked, and stays."""
        places = [file.parent for folder in self.folders for file in folder.files("any")]
        parts = leftovers(*places, self.output / "tissue")
        for name in self.jobs if parts else ():
            pictures = [self.output / "tissue" / f"{name}{suffix}" for suffix in (".jpg", ".geojson")]
            files = [*pictures, *(file for folder in self.folders for file in folder.files(name))]
            left = [part for file in files for part in parts.get(file, [])]
            if left and locks.take(name):
                for part in left:
                    part.unlink(missing_ok=True)
                locks.release(name)

    def _do(self, job: SlideJob, looks: LookAhead, bar: SlideBar) -> None:
        """One slide, unless another run has finished it meanwhile."""
        if self._adopt(job, None):
            bar.finish(0, 0)
            return
        begin = time.perf_counter()
        progress = _Progress()
        try:
            notes = self._encode(job, looks.of(job), bar, progress, begin)
            error = ""
        except ProcessStartError:  # no slide could be read
            raise
        except Exception as failure:  # whatever one slide holds, the others are worth going on for
            if isinstance(failure, OSError) and failure.errno in NO_SPACE:
                raise
            error = error_line(failure, job.path)
            notes = progress.notes
            clear_tracebacks(failure)
            logger.error("%s: %s", job.name, error, exc_info=logger.isEnabledFor(logging.DEBUG))
        finally:
            bar.finish(progress.done, progress.of)
        notes = dict.fromkeys(SlideResult.numbers(), float("nan")) | notes
        notes["seconds"] = time.perf_counter() - begin
        self.results[job.name] = SlideResult(job.name, 0 if error else progress.kept, error=error, **notes)

    def _adopt(self, job: SlideJob, size: tuple[int, int] | None) -> bool:
        """Return whether a slide is finished; then its result is taken over."""
        found = []
        for folder in self.folders:
            if not folder.path(job.name).exists():
                continue
            try:
                found.append(
                    finished_result(
                        folder, job.name, self.settings, job.selection(), slide_mpp=job.mpp, slide_size=size
                    )
                )
            except OSError as error:  # a file that cannot be read is not replaced
                self.results[job.name] = SlideResult.failed(job.name, error_line(error, job.path))
                return True
        if len(found) < len(self.folders) or None in found:
            return False
        self.results[job.name] = next(result for result in found if result is not None)
        return True

    def _encode(
        self, job: SlideJob, look: FirstLook, bar: SlideBar, progress: _Progress, begin: float
    ) -> dict[str, float]:
        """Read, encode and write one slide; returns the numbers of its row."""
        tiles, tissue = look.tiles, look.tiles.tissue
        missing = [folder for folder in self.folders if not folder.path(job.name).exists()] or self.folders
        progress.of = len(tiles)
        notes = progress.notes
        if tissue is not None:
            notes["tissue_mm2"], notes["pen"] = tissue.area_mm2, tissue.pen_share
            if tissue.pen_share > MUCH_PEN:
                logger.warning(
                    "%s: %.0f%% of what is colored is left out as pen marks; see %s, and pass masks if it is tissue",
                    job.name,
                    100 * tissue.pen_share,
                    shown(self.output / "tissue" / f"{job.name}.jpg"),
                )
        needed = bytes_needed(missing, len(tiles))
        refuse_full_disk(self.output, missing[0].path(job.name), needed)
        try:
            with ExitStack() as stack:
                selection = job.selection()
                writers = [
                    stack.enter_context(FeatureWriter.writing(folder, tiles, self.settings, selection))
                    for folder in missing
                ]
                scores = []
                for batch, sharp in self._loader(tiles):
                    batch = batch if self.transform else batch.permute(0, 3, 1, 2)
                    keep = sharp >= self.settings.min_sharpness
                    kept = batch if keep.all() else batch[keep]
                    if len(kept):
                        for folder, writer in zip(missing, writers, strict=True):
                            writer.append(folder.encode(kept))
                    scores.append(sharp.numpy())
                    progress.done += len(batch)
                    progress.kept += len(kept)
                    bar.advance(job.name, len(batch), len(tiles))
                sharpness = np.concatenate(scores) if scores else np.empty(0)
                rows = sharpness >= self.settings.min_sharpness
                notes["blur"] = 1 - float(rows.mean()) if len(rows) else 0.0
                notes["sharpness"] = float(np.median(sharpness)) if len(rows) else float("nan")
                notes["seconds"] = time.perf_counter() - begin
                self._write_pictures(job, look, rows)
                for writer in writers:
                    writer.finish(rows, notes)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise full_disk_error(missing[0].path(job.name), needed, error.errno) from error
            raise
        return notes

    def _loader(self, tiles: Tiles) -> DataLoader[Any]:
        return DataLoader(
            ScoredTiles(tiles, self.transform),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            worker_init_fn=end_with_run,
            pin_memory=any(folder.encode.device.type == "cuda" for folder in self.folders),
        )

    def _write_pictures(self, job: SlideJob, look: FirstLook, kept: np.ndarray[Any, Any]) -> None:
        tiles, slide = look.tiles, look.tiles.slide
        picture = quality_picture(
            look.overview,
            (slide.width, slide.height),
            tissue=tiles.tissue,
            coords=tiles.coords,
            kept=kept,
            footprint=tiles.footprint,
            mpp=slide.mpp,
        )
        write_jpeg(self.output / "tissue" / f"{slide.name}.jpg", picture)
        if tiles.tissue is not None:
            path = self.output / "tissue" / f"{slide.name}.geojson"
            write_tissue(path, tiles.tissue, job.origin or "bounds")


class _Progress:
    """Progress of a slide, which the report of a failure needs too."""

    def __init__(self) -> None:
        self.done = self.kept = self.of = 0
        self.notes: dict[str, float] = {}
