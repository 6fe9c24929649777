"""Tests of eurosat_helpers.improvements.charts."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from eurosat_helpers.improvements import charts, runs

CROWDED = pd.DataFrame(
    {
        "name": [f"run-{number}" for number in range(1, 16)],
        "seconds": [300.0] * 10 + [301.0, 302.0, 303.0, 20.0, 4000.0],
        "accuracy": [0.95 + 0.0003 * number for number in range(13)] + [0.9, 0.99],
    }
)


def test_runs_are_points_with_numbers_that_a_legend_explains():
    figure = charts.accuracy_against_cost(CROWDED, title="demo: a title")
    (axes,) = figure.axes
    assert axes.get_title() == "demo: a title"
    points = np.concatenate([line.get_xydata() for line in axes.lines])
    assert points.tolist() == CROWDED[["seconds", "accuracy"]].to_numpy().tolist()
    assert [text.get_text() for text in axes.texts] == [str(n) for n in range(1, 16)]
    listed = [text.get_text() for text in axes.get_legend().get_texts()]
    assert listed[:2] == ["1  run-1", "2  run-2"]
    assert axes.get_xscale() == "log"
    assert plt.get_fignums() == []
    figure.savefig(io.BytesIO())
    assert figure.get_figwidth() <= 10
    legend = axes.get_legend().get_window_extent()
    assert all(figure.bbox.contains(*corner) for corner in legend.corners())


def test_names_and_titles_are_no_formulas():
    pictures = []
    for settings in ({"text.parse_math": False}, {}):
        with plt.rc_context(settings):
            table = CROWDED[:2].assign(name=["$x^2$", "run_$_2_$_3"])  # the second one fails
            figure = charts.accuracy_against_cost(table, title="$y_3$")
            figure.savefig(picture := io.BytesIO())
        pictures.append(picture.getvalue())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    "table", [CROWDED, runs.table(PROJECT / "docs")], ids=["crowded", "measured"]
)
def test_numbers_of_runs_that_are_close_do_not_overlap(table):
    figure = charts.accuracy_against_cost(table)
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    boxes = [plt.Text.get_window_extent(text) for text in axes.texts]  # without their lines
    pairs = [(a, b) for a in range(len(boxes)) for b in range(a)]
    assert not [pair for pair in pairs if boxes[pair[0]].overlaps(boxes[pair[1]])]
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="`table` must hold at least one run"):
        charts.accuracy_against_cost(CROWDED[:0])
