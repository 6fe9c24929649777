"""Charts of what an evaluation found."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from eurosat_helpers.plots.style import BLUE, GRAY, PLAIN, STYLE, VERMILLION


def robustness(table: pd.DataFrame, *, title: str = "Robustness") -> Figure:
    """Draw `evaluation.robustness`: per row, how many are right, of all and of the sure answers."""
    figure, axes = draw_axes(8, 0.28 * len(table) + 1)
    table = table[::-1]
    axes.plot(table["sure"], table.index, "s", color=GRAY, markersize=5, label="share sure")
    axes.plot(table["accuracy"], table.index, "o", color=BLUE, label="accuracy")
    hollow = {"color": VERMILLION, "fillstyle": "none", "label": "accuracy of the sure answers"}
    axes.plot(table["right_when_sure"], table.index, "D", **hollow)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # not 82.5 %
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="share of the tiles (diamonds: of the sure answers)")
    plt.setp(axes.get_yticklabels(), **PLAIN)
    figure.suptitle(title, **PLAIN)
    return figure


def reliability_diagram(reliability: pd.DataFrame, *, title: str = "Reliability") -> Figure:
    """Draw `calibration.reliability`: accuracy against confidence, and the tiles of each bin."""
    figure, (upper, lower) = draw_axes(7, 6, rows=2, sharex=True, height_ratios=(3, 1))
    bins = reliability[reliability["tiles"] > 0]
    place = {"x": bins.low, "width": bins.high - bins.low, "align": "edge", "edgecolor": "white"}
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="perfect calibration")
    upper.bar(height=bins["accuracy"], color=BLUE, alpha=0.4, label="accuracy of a bin", **place)
    mean = {"color": VERMILLION, "label": "accuracy at the mean confidence of the bin"}
    upper.plot(bins["confidence"], bins["accuracy"], "o", **mean)
    upper.legend(frameon=False, loc="upper left", fontsize=8)
    upper.set_title(title, **PLAIN)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    lower.bar(height=bins["tiles"], color=GRAY, **place)
    lower.set(xlabel="confidence", ylabel="tiles (log scale)", yscale="log", ylim=(0.7, None))
    lower.minorticks_off()
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_axes(
    width: float, height: float, *, rows: int = 1, **settings: object
) -> tuple[Figure, Axes | np.ndarray]:
    """Make a figure (inches) with charts."""
    figure, axes = plt.subplots(rows, figsize=(width, height), **STYLE, **settings)
    plt.close(figure)
    for chart in figure.axes:
        chart.spines[["top", "right"]].set_visible(False)
        chart.set_axisbelow(True)
        chart.grid(alpha=0.25)
    return figure, axes
