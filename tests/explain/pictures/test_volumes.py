import nibabel
import numpy as np
import pytest
import torch

from healnet._plotting import new_figure
from healnet.encoders import GridEncoder
from healnet.explain import plot_image_overlay, plot_orthogonal_slices, to_nifti, voxel_scores


@pytest.mark.parametrize("patch", [1, 2, (2, 1, 3)])
def test_scores_return_to_the_voxels_their_tokens_came_from(patch):
    """Each voxel holds its own number; a token's first channel is that of its block's first voxel."""
    volume = torch.arange(5 * 4 * 7, dtype=torch.float32).reshape(1, 5, 4, 7, 1)
    tokens = GridEncoder(1, 3, patch=patch, positions=False)(volume).values[..., 0]
    back = voxel_scores(tokens, (5, 4, 7), patch)
    sides = (patch,) * 3 if isinstance(patch, int) else patch
    corner = [np.arange(n) // side * side for n, side in zip((5, 4, 7), sides, strict=True)]
    np.testing.assert_array_equal(back[0], volume[0, ..., 0].numpy()[np.ix_(*corner)])
    np.testing.assert_array_equal(voxel_scores(tokens[0], (5, 4, 7), patch), back[0])


def test_masked_voxels_have_no_score():
    mask = np.array([[True, False], [True, True]])
    found = voxel_scores([1.0, 2.0, 3.0, 4.0], (2, 2), mask=mask)
    np.testing.assert_array_equal(found, [[1, np.nan], [3, 4]])


def test_another_number_of_tokens_is_refused():
    message = r"^a grid of \(3, 3\) in blocks of \(2, 2\) has 4 tokens, got scores of \(9,\)$"
    with pytest.raises(ValueError, match=message):
        voxel_scores(np.zeros(9), (3, 3), 2)


def pixels(figure, shape):
    figure.set_dpi(50)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]
    assert picture.shape == (*shape, 3)
    return picture


def test_a_planted_pixel_is_drawn_where_it_is():
    shape = (40, 60)
    figure = new_figure(60 / 50, 40 / 50)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    scores = np.full(shape, np.nan)
    scores[31, 7], scores[3, 52] = 1.0, -1.0
    plot_image_overlay(np.full((*shape, 3), 77, np.uint8), scores, ax=ax, alpha=1.0, colorbar=False)
    ax.set_axis_off()
    picture = pixels(figure, shape)
    assert picture[31, 7].tolist() == [103, 0, 31]  # the ends of RdBu_r: red raises, blue lowers
    assert picture[3, 52].tolist() == [5, 48, 97]
    assert (picture == 77).all(axis=2).sum() == 40 * 60 - 2


def test_limits_about_zero_keep_the_colors_of_both_signs():
    options = {"scores": np.array([[-0.5, 0.2]]), "colorbar": False}
    maps = [
        plot_image_overlay(np.zeros((1, 2)), limits=limits, **options).images[1].get_cmap().name
        for limits in (None, (-1.0, 1.0), (0.0, 1.0))
    ]
    assert maps == ["RdBu_r", "RdBu_r", "viridis"]


def test_slices_go_through_the_largest_score():
    volume = np.random.default_rng(0).random((5, 6, 7))
    scores = np.zeros((5, 6, 7))
    scores[1, 4, 2] = -3.0
    scores[0, 0, 0] = 2.0
    first, second, third = plot_orthogonal_slices(volume, scores, spacing=(3.0, 1.0, 2.0))
    assert [ax.get_title() for ax in (first, second, third)] == ["axis 0 = 1", "axis 1 = 4", "axis 2 = 2"]
    np.testing.assert_array_equal(first.images[0].get_array(), volume[1])
    np.testing.assert_array_equal(second.images[1].get_array(), scores[:, 4])
    np.testing.assert_array_equal(third.images[1].get_array(), scores[:, :, 2])
    assert [ax.get_aspect() for ax in (first, second, third)] == [0.5, 1.5, 3]
    assert {image.get_clim() for ax in (first, second, third) for image in ax.images[1:]} == {(-3, 3)}


def test_wrong_volumes_are_refused():
    message = r"^expected a volume \(x, y, z\[, c\]\) and scores \(x, y, z\) of one size, got \(2, 2, 2\) and \(2, 2\)$"
    with pytest.raises(ValueError, match=message):
        plot_orthogonal_slices(np.zeros((2, 2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"^expected a voxel inside \(2, 2, 2\), got \(0, 2, 0\)$"):
        plot_orthogonal_slices(np.zeros((2, 2, 2)), np.ones((2, 2, 2)), at=(0, 2, 0))
    message = (
        r"^expected an image \(h, w\[, 3\]\) and scores \(h, w\) of one size, got \(4, 4\) and \(4, 5\)$"
    )
    with pytest.raises(ValueError, match=message):
        plot_image_overlay(np.zeros((4, 4)), np.zeros((4, 5)))


def test_nifti_is_read_back_with_its_place(tmp_path):
    scores = np.random.default_rng(0).standard_normal((3, 4, 5))
    scores[0, 0, 0] = np.nan
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    image = nibabel.load(to_nifti(scores, tmp_path / "s.nii.gz", affine))
    np.testing.assert_allclose(image.get_fdata(), np.nan_to_num(scores), rtol=1e-6)
    np.testing.assert_array_equal(image.affine, affine)
    assert image.header.get_zooms() == (0.5, 0.5, 2.0)
    message = (
        r"^expected scores \(x, y, z\) and a path ending in .nii or .nii.gz, got \(3, 4, 5\) and 's.png'$"
    )
    with pytest.raises(ValueError, match=message):
        to_nifti(scores, tmp_path / "s.png")


def test_infinite_scores_are_refused():
    with pytest.raises(ValueError, match=r"^expected finite scores, or NaN for some, got inf$"):
        plot_image_overlay(np.zeros((2, 2)), [[0.0, np.inf], [1.0, np.nan]])
