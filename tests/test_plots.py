"""What the figures show: their axes, texts and marks."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from eurosat_helpers import plots

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype="uint8")
NAMES = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Pasture", "River", "SeaLake"]
RELIABILITY = pd.DataFrame(
    {
        "low": [0, 0.5],
        "high": [0.5, 1],
        "tiles": [0, 20],
        "confidence": [np.nan, 0.9],
        "accuracy": [np.nan, 0.95],
    }
)
HEATS = np.random.default_rng(1).random((7, 64, 64))
ROBUSTNESS = pd.DataFrame(
    {"accuracy": [0.9, 0.7], "sure": [0.8, 0.0], "right_when_sure": [0.95, np.nan]},
    index=["unchanged", "jpeg"],
)
FIGURES = {
    "tile_grid": lambda title: plots.tile_grid(IMAGES, NAMES, title=title),
    "prediction_grid": lambda title: plots.prediction_grid(
        IMAGES, NAMES, NAMES[::-1], [0.5] * 7, title=title, threshold=0.6
    ),
    "reliability_diagram": lambda title: plots.reliability_diagram(RELIABILITY, title=title),
    "explanations": lambda title: plots.explanations(
        IMAGES, {"Grad-CAM": HEATS, "occlusion": -HEATS}, HEATS[:, 0, :5], NAMES, NAMES, title=title
    ),
    "robustness": lambda title: plots.robustness(ROBUSTNESS, title=title),
}


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def texts(figure: Figure, axes: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[axes].texts]


def overlap(figure: Figure) -> bool:
    """Whether the titles of two neighbors touch."""
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    return any(boxes[a].overlaps(boxes[b]) for a in range(len(boxes)) for b in range(a))


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_fits_a_notebook_shows_its_title_and_is_closed(draw):
    figure = draw("demo: a title")
    assert plt.get_fignums() == []
    figure.draw_without_rendering()
    assert "demo: a title" in [figure.get_suptitle(), *titles(figure)]
    assert figure.get_figwidth() <= 10
    sizes = [text.get_fontsize() for text in figure.findobj(plt.Text) if text.get_text()]
    assert min(sizes) >= 8


FORMULAS = ["$x^2$", "a $ b", *(f"rice_$_2_$_{number}" for number in range(5))]  # the last fail
CELLS = np.zeros((8, 8, 3), "uint8"), np.arange(64).reshape(8, 8) % 7, HEATS[0, :8, :8]
NAMED = {
    "tile_grid": lambda: plots.tile_grid(IMAGES, FORMULAS, title="$y_3$"),
    "prediction_grid": lambda: plots.prediction_grid(
        IMAGES, FORMULAS, FORMULAS, [0.5] * 7, title="$y_3$"
    ),
    "reliability_diagram": lambda: plots.reliability_diagram(RELIABILITY, title="$y_3$"),
    "explanations": lambda: plots.explanations(
        IMAGES, {"$y_3$": HEATS}, HEATS[:, 0, :7], FORMULAS, FORMULAS, title="$y_3$"
    ),
    "robustness": lambda: plots.robustness(ROBUSTNESS.set_axis(FORMULAS[:3:2]), title="$y_3$"),
    "scene_map": lambda: plots.scene_map(*CELLS, CELLS[2] < 0.5, FORMULAS, title="$y_3$"),
}


def saved(figure: Figure) -> bytes:
    figure.savefig(picture := io.BytesIO())
    return picture.getvalue()


@pytest.mark.parametrize("draw", NAMED.values(), ids=NAMED)
def test_names_and_titles_are_no_formulas(draw):
    with plt.rc_context({"text.parse_math": False}):
        wanted = saved(draw())
    assert saved(draw()) == wanted


def test_tile_grid_breaks_a_name_that_is_wider_than_its_tile():
    figure = plots.tile_grid(IMAGES[[0] * 12], ["HerbaceousVegetation", "PermanentCrop"] * 6)
    assert titles(figure)[:2] == ["Herbaceous\nVegetation", "Permanent\nCrop"]
    assert len(figure.axes) == 20
    assert not overlap(figure)


def test_tile_grid_keeps_a_name_that_fits():
    figure = plots.tile_grid(IMAGES, ["truth:\nHerbaceousVegetation"] * 7, columns=5)
    assert titles(figure)[0] == "truth:\nHerbaceousVegetation"
    assert not overlap(figure)


def test_tile_grid_shows_the_pixels():
    figure = plots.tile_grid(IMAGES.astype("float32"), NAMES, columns=4)
    shown = figure.axes[6].images[0].get_array()
    np.testing.assert_array_equal(shown, IMAGES[6])
    assert [axes.axison for axes in figure.axes] == [True] * 7 + [False]


def test_prediction_grid_marks_mistakes_by_sign_frame_and_color():
    figure = plots.prediction_grid(
        IMAGES[:3], ["Forest", "River", "Highway"], ["Forest", "Pasture", "Highway"],
        [0.62, 0.934, 0.9999], threshold=0.7, unfamiliar=[False, False, True],
    )  # fmt: skip
    assert titles(figure)[:3] == [
        "✓ Forest 62%\ntruth: Forest",
        "✗ Pasture 93%\ntruth: River",
        "✓ Highway >99%\ntruth: Highway",
    ]
    right, wrong = figure.axes[0].spines["top"], figure.axes[1].spines["top"]
    assert wrong.get_linewidth() > 2 * right.get_linewidth()
    assert to_hex(wrong.get_edgecolor()) != to_hex(right.get_edgecolor())
    assert [texts(figure, index) for index in range(3)] == [["unsure"], [], ["unfamiliar"]]


def test_prediction_grid_of_unlabeled_tiles_judges_nothing():
    figure = plots.prediction_grid(IMAGES[:2], None, ["Forest", "River"], [0.6, 0.8])
    assert titles(figure)[:2] == ["Forest 60%", "River 80%"]
    assert not figure.axes[0].spines["top"].get_visible()
    assert texts(figure) == []


def test_prediction_grid_has_room_for_the_longest_names():
    longest = ["HerbaceousVegetation"] * 20
    images = np.repeat(IMAGES[:1], 20, axis=0)
    figure = plots.prediction_grid(images, ["PermanentCrop"] * 20, longest, [0.93] * 20)
    assert len(figure.axes) == 20
    assert not overlap(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.tile_grid(IMAGES, ["a"]), "`titles` must have 7 entries. Received: 1"),
        (
            lambda: plots.prediction_grid(IMAGES, ["a"], NAMES, [1] * 7),
            "'predictions': 7, 'confidences': 7",
        ),
        (
            lambda: plots.prediction_grid(IMAGES, None, ["a"], [1] * 7),
            "Received: .*'predictions': 1",
        ),
        (lambda: plots.prediction_grid(IMAGES, None, NAMES, [1]), "'confidences': 1, "),
        (lambda: plots.prediction_grid(IMAGES, ["a"], ["a"], [1]), "'images': 7, 'truth': 1, "),
    ],
)
def test_lists_that_do_not_fit_the_images_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []


def test_a_grid_of_no_tiles_says_so():
    figure = plots.prediction_grid(IMAGES[:0], [], [], [], title="Mistakes")
    assert figure.get_suptitle() == "Mistakes (no tiles)"


def test_robustness_puts_the_first_row_on_top_and_leaves_out_what_is_not_known():
    axes = plots.robustness(ROBUSTNESS).axes[0]
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert drawn["accuracy"] == [0.7, 0.9]
    np.testing.assert_array_equal(drawn["accuracy of the sure answers"], [np.nan, 0.95])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["jpeg", "unchanged"]
    near = ROBUSTNESS.assign(sure=[0.908, 0.818], accuracy=[0.97, 0.944], right_when_sure=0.99)
    axes = plots.robustness(near).axes[0]
    axes.figure.canvas.draw()
    ticks = [f"{100 * place:.4g}%" for place in axes.get_xticks()]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks  # and not 82% for 82.5%


def test_reliability_diagram_leaves_out_empty_bins():
    accuracy, tiles = FIGURES["reliability_diagram"]("").axes
    assert [bar.get_height() for bar in accuracy.patches] == [0.95]
    assert [bar.get_height() for bar in tiles.patches] == [20]
    assert accuracy.lines[1].get_xydata().tolist() == [[0.9, 0.95]]


def test_maps_of_a_kind_have_one_scale():
    maps = {"Grad-CAM, the answer": HEATS[:2], "Grad-CAM, the truth": HEATS[:2] / 4}
    maps["occlusion, the answer"] = HEATS[:2] / 8
    figure = plots.explanations(IMAGES[:2], maps, np.full((2, 7), 1 / 7), NAMES, ["a", "b"])
    limits = [image.get_clim()[1] for axes in figure.axes[:5] for image in axes.images[1:]]
    most = HEATS[:2].max()
    assert limits == pytest.approx([most, most, most / 8])


def test_explanations_show_tile_maps_and_the_most_likely_classes_of_each_row():
    shares = np.array([[0.1, 0.7, 0.2, 0, 0, 0, 0], [0, 0, 0, 0.6, 0.1, 0.3, 0]])
    figure = plots.explanations(IMAGES[:2], {"Grad-CAM": HEATS[:2]}, shares, NAMES, ["a", "b"])
    rows = np.array(figure.axes)[:6].reshape(2, 3)
    assert [row[0].get_ylabel() for row in rows] == ["a", "b"]
    assert [text.get_text() for text in rows[0, 2].get_yticklabels()][::-1] == [
        "Forest",
        "HerbaceousVegetation",
        "AnnualCrop",
    ]
    # The colors of both rows mean the same.
    limits = {row[1].images[-1].get_clim() for row in rows}
    assert limits == {(0, HEATS[:2].max())}


# Full protanopia, deuteranopia and tritanopia on linear RGB (Machado, Oliveira and Fernandes 2009).
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("eyes", EYES.values(), ids=EYES)
def test_colors_of_the_classes_differ_for_every_reader(eyes):
    rgb = np.array([to_rgb(color) for color in plots.CLASS_COLORS[:10]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(eyes), 0, 1)
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2127, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]]
    xyz = np.cbrt(seen @ np.transpose(to_xyz))  # white is 1, 1, 1; its cube root serves CIELAB
    xyz = np.where(xyz > 0.2069, xyz, 7.787 * xyz**3 + 16 / 116)
    x, y, z = xyz.T
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[~np.eye(10, dtype=bool)]
    assert distances.min() >= 29.5
