"""A DICOM slide, written by pydicom: one file per level, named after its folder."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

from healnet.slides import Slide, extract_features, read_patches
from healnet.slides.slide_files import find_slide_files

TILE = 256
MICRONS = 0.5  # per pixel of level 0
# JPEG moves a color by so much.
ROUNDING = 6


def encode(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=95, subsampling=0)
    return buffer.getvalue()


def write_level(path, pixels, step, series):
    """One level of `step` level-0 pixels per pixel: JPEG tiles row by row, white beyond the edges (DICOM PS3.3 C.8.12.4)."""
    h, w = pixels.shape[:2]
    rows, columns = -(-h // TILE), -(-w // TILE)
    padded = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    padded[:h, :w] = pixels
    tiles = padded.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    derived = step > 1
    data, spacing = Dataset(), MICRONS * step / 1000  # millimeters
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID = series
    data.StudyInstanceUID, data.FrameOfReferenceUID = generate_uid(), generate_uid()
    data.Modality, data.InstanceNumber = "SM", 1 + derived
    kind = ["DERIVED", "RESAMPLED"] if derived else ["ORIGINAL", "NONE"]
    data.ImageType = [kind[0], "PRIMARY", "VOLUME", kind[1]]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "YBR_FULL_422", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.Rows = data.Columns = TILE
    data.NumberOfFrames = len(tiles)
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = w, h
    data.DimensionOrganizationType = "TILED_FULL"
    measures, groups, optics = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [spacing, spacing]
    groups.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [groups]
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "0", 20
    data.OpticalPathSequence = [optics]
    data.PixelData = encapsulate([encode(tile) for tile in tiles])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True, little_endian=True, implicit_vr=False)


@pytest.fixture(scope="module")
def pixels():
    """A pink plane beside white, whose color says where it is."""
    y, x = np.mgrid[:1200, :2000]
    colors = np.stack([190 + x // 100, 110 + y // 100, np.full_like(x, 170)], axis=-1).astype(np.uint8)
    colors[:, 1000:] = 255
    return colors


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    folder, series = tmp_path_factory.mktemp("dicom") / "patient-7", generate_uid()
    folder.mkdir()
    write_level(folder / "0.dcm", pixels, 1, series)
    write_level(folder / "1.dcm", pixels[::4, ::4], 4, series)
    return folder


def test_levels_scale_and_pixels(folder, pixels):
    slide = Slide(folder / "0.dcm")
    assert (slide.width, slide.height, slide.level_downsamples) == (2000, 1200, (1.0, 4.0))
    assert slide.mpp == pytest.approx(MICRONS)
    assert slide.magnification == 20
    region = slide.as_array(mpp=MICRONS)[300:520, 500:700].astype(int)
    assert np.abs(region - pixels[300:520, 500:700]).max() <= ROUNDING


def mean_color(tiles):
    return tiles.mean(dim=(2, 3))


def test_a_slide_of_several_files_is_extracted_once_by_the_name_of_its_folder(folder, pixels, tmp_path):
    slides = find_slide_files(folder.parent)
    assert slides == [folder / "0.dcm"]
    (result,) = extract_features(
        slides,
        mean_color,
        tmp_path,
        encoder_name="mean_color",
        size=TILE,
        mpp=MICRONS,
        tissue_fraction=0.95,
        transform=to_float,
        num_workers=0,
        progress=False,
    )
    assert (result.slide, result.error) == ("patient-7", "")
    features, coords = read_patches(tmp_path / "patient-7.h5").load()
    assert sorted(coords.tolist()) == [[x, y] for x in (0, 256, 512) for y in (0, 256, 512, 768)]
    for (x, y), found in zip(coords.long().tolist(), features, strict=True):
        expected = pixels[y : y + TILE, x : x + TILE].reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=1)


def to_float(tiles):
    return tiles.float()
