import numpy as np
import pytest

from healnet._plotting import new_figure
from healnet.explain import plot_graph_overlay


def drawn(*args, shape, **options):
    figure = new_figure(shape[1] / 50, shape[0] / 50)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    plot_graph_overlay(*args, ax=ax, colorbar=False, **options)
    ax.set_axis_off()
    figure.set_dpi(50)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def test_nodes_light_the_pixels_of_their_centroids():
    blank = np.full((60, 80, 3), 255, np.uint8)
    picture = drawn([[10, 50], [70, 5]], [0.0, 1.0], None, blank, shape=(60, 80), size=60.0)
    assert picture.shape == (60, 80, 3)
    assert picture[50, 10].tolist() == [68, 1, 84]
    assert picture[5, 70].tolist() == [253, 231, 37]
    colored = np.argwhere((picture < 250).any(axis=2))
    near = np.minimum(*(np.abs(colored - place).max(axis=1) for place in ([50, 10], [5, 70])))
    assert near.max() <= 4


def test_an_edge_is_drawn_once_between_its_nodes():
    ax = plot_graph_overlay([[0, 0], [8, 0], [8, 8]], [1, 2, 3], [[0, 1, 2, 1], [1, 0, 1, 2]])
    segments = ax.collections[0].get_segments()
    assert [s.tolist() for s in segments] == [[[0, 0], [8, 0]], [[8, 0], [8, 8]]]
    assert ax.yaxis_inverted()
    over_a_picture = new_figure(2, 2).add_subplot()
    over_a_picture.imshow(np.zeros((9, 9)))
    assert plot_graph_overlay([[0, 0], [8, 8]], [1, 2], ax=over_a_picture).yaxis_inverted()


def test_near_zero_nodes_are_seen_on_white():
    """The middle of a diverging map is white, as is the picture: a black outline shows the node."""
    blank = np.full((60, 80, 3), 255, np.uint8)
    places, scores = [[10, 50], [40, 30], [70, 5]], [-1.0, 0.001, 1.0]
    picture = drawn(places, scores, None, blank, shape=(60, 80), size=100.0, scale="raw")
    near = picture[22:39, 32:49].astype(int).sum(axis=2)
    assert near.min() < 400
    assert picture[30, 40].min() > 240


def test_the_scale_bar_is_in_the_pictures_pixels():
    image = np.zeros((300, 400, 3), np.uint8)
    ax = plot_graph_overlay([[10, 20], [390, 280]], [1, 2], image=image, mpp=0.25)
    assert [text.get_text() for text in ax.texts] == ["20 µm"]
    assert ax.patches[0].get_width() == 80
    assert 0 < ax.patches[0].get_y() < 300
    alone = plot_graph_overlay([[0, 0], [400, 300]], [1, 2], mpp=0.25)
    assert [text.get_text() for text in alone.texts] == ["20 µm"]
    assert not plot_graph_overlay([[0, 0], [400, 300]], [1, 2]).patches


def test_wrong_graphs_are_refused():
    with pytest.raises(
        ValueError, match=r"^expected centroids of shape \(2, 2\), one per score, got \(3, 2\)$"
    ):
        plot_graph_overlay(np.zeros((3, 2)), [1, 2])
    with pytest.raises(
        ValueError,
        match=r"^expected integer edge_index of shape \(2, e\) with nodes 0..1, got int64 of shape \(2, 1\)$",
    ):
        plot_graph_overlay(np.zeros((2, 2)), [1, 2], [[0], [2]])
    with pytest.raises(ValueError, match=r"^expected integer edge_index .*, got float64 of shape \(2, 1\)$"):
        plot_graph_overlay(np.zeros((2, 2)), [1, 2], [[0.0], [1.0]])


def test_centroids_lie_on_the_dark_nuclei_of_their_picture():
    """Axes are not swapped: under the nodes the picture is dark, and under their mirror images it is not."""
    rng = np.random.default_rng(0)
    image = np.full((300, 400, 3), 220, np.uint8)
    centroids = np.stack([rng.uniform(5, 395, 40), rng.uniform(5, 295, 40)], axis=1)
    y, x = np.mgrid[:300, :400]
    for cx, cy in centroids:
        image[(x - cx) ** 2 + (y - cy) ** 2 < 9] = 60
    ax = plot_graph_overlay(centroids, np.arange(40), np.stack([np.arange(39), np.arange(1, 40)]), image)
    ax.figure.draw_without_rendering()
    on_screen = ax.transData.transform(np.asarray(ax.collections[-1].get_offsets()))
    picture = ax.images[0]
    left, right, bottom, top = picture.get_extent()
    corners = ax.transData.transform([(left, top), (right, bottom)])
    # From the pixels of the screen back into those of the picture, whatever the axes say.
    share = (on_screen - corners[0]) / (corners[1] - corners[0])
    column, row = (share * (400, 300)).astype(int).T
    assert (image[row, column] == 60).all()
    assert image[np.clip(column, 0, 299), np.clip(row, 0, 399)].mean() > 180
