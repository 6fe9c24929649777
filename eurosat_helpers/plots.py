"""Draw the figures of the notebooks: arrays and tables in, Matplotlib figures out.

Each function returns a figure that pyplot has already closed, so that it shows once as the last
expression of a notebook cell. `title` is the title of the figure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

# Okabe and Ito, "Color Universal Design" (2008): distinct for color-blind readers too.
BLUE, GREEN, ORANGE, VERMILLION = "#0072B2", "#009E73", "#E69F00", "#D55E00"
PURPLE, GRAY = "#CC79A7", "#666666"
WIDTH = 10  # inches: a notebook cell
STYLE = {"dpi": 100, "layout": "constrained"}


def tile_grid(
    images: np.ndarray, titles: Sequence[str], *, columns: int = 10, title: str = ""
) -> Figure:
    """Draw tiles, pixels `(N, height, width, 3)` in 0-255, in rows, each under its title.

    A `CamelCase` title that is wider than its tile is broken into lines. No tiles at all draw a
    figure that says so. A `ValueError` names the numbers of tiles and titles that differ.
    """
    if len(titles) != len(images):
        raise ValueError(f"`titles` must have {len(images)} entries. Received: {len(titles)}")
    letters = 15 * WIDTH / columns - 2.5  # that fit above a tile, with a gap to the next
    titles = [
        text if len(text) <= letters or "\n" in text else re.sub("(?<=[a-z])(?=[A-Z])", "\n", text)
        for text in titles
    ]
    rows = max(1, -(-len(images) // columns))
    lines = max((text.count("\n") for text in titles), default=-1) + 1
    height = rows * (WIDTH / columns + 0.16 * lines + 0.05) + 0.3 if titles else 1
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **STYLE)
    plt.close(figure)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    for cell, image, text in zip(axes.flat, images, titles, strict=False):
        cell.imshow(np.asarray(image).astype("uint8"), interpolation="lanczos")
        cell.set_title(text, fontsize=8.5 if columns <= 6 else 8, pad=4)
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for cell in axes.flat[len(images) :]:
        cell.set_axis_off()
    figure.suptitle(title if titles else f"{title} (no tiles)")
    return figure


def prediction_grid(
    images: np.ndarray,
    truth: Sequence[str] | None,
    predictions: Sequence[str],
    confidences: Sequence[float],
    *,
    columns: int = 5,
    title: str = "",
    threshold: float | None = None,
    unfamiliar: Sequence[bool] | None = None,
) -> Figure:
    """Draw tiles with their predictions; mistakes, unsure answers and outliers are marked.

    Args:
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        truth: N class names, or None for tiles without a label.
        predictions: N class names.
        confidences: N probabilities of the predicted classes, in 0-1.
        columns: Tiles per row.
        title: Of the figure.
        threshold: Confidence below which a tile is marked as unsure; None marks none.
        unfamiliar: For each of N tiles, whether to mark it as unfamiliar; None marks none.

    Raises:
        ValueError: If the lengths differ.
    """
    truth = [None] * len(images) if truth is None else truth
    unfamiliar = [False] * len(predictions) if unfamiliar is None else unfamiliar
    rows, titles = list(zip(predictions, confidences, truth, unfamiliar, strict=True)), []
    for said, confidence, true, _ in rows:
        # Never rounded up to certainty.
        text = f"{said} {'>99%' if confidence > 0.99 else f'{confidence:.0%}'}"
        mark = "✓" if said == true else "✗"
        titles.append(text if true is None else f"{mark} {text}\ntruth: {true}")
    figure = tile_grid(images, titles, columns=columns, title=title)
    for axes, (said, confidence, true, unlike) in zip(figure.axes, rows, strict=False):
        if true is not None:
            color, width = (GREEN, 1.5) if said == true else (VERMILLION, 4.5)
            axes.spines[:].set(visible=True, color=color, linewidth=width)
            axes.title.set_color("black" if said == true else VERMILLION)
        unsure = threshold is not None and confidence < threshold
        if unlike or unsure:
            text, color = ("unfamiliar", PURPLE) if unlike else ("unsure", ORANGE)
            box = {"facecolor": color, "edgecolor": "none", "pad": 2}
            axes.text(0.05, 0.05, text, transform=axes.transAxes, fontsize=8.5, bbox=box)
    return figure


def robustness(table: pd.DataFrame, *, title: str = "Robustness") -> Figure:
    """Draw `evaluation.robustness`: per row, how many are right, of all and of the sure answers."""
    figure, axes = _charts(8, 0.28 * len(table) + 1)
    table = table[::-1]
    axes.plot(table["sure"], table.index, "|", color=GRAY, markersize=10, label="share sure")
    axes.plot(table["accuracy"], table.index, "o", color=BLUE, label="accuracy")
    hollow = {"color": VERMILLION, "fillstyle": "none", "label": "accuracy of the sure answers"}
    axes.plot(table["right_when_sure"], table.index, "D", **hollow)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="share of the tiles, or of the sure answers")
    figure.suptitle(title)
    return figure


def reliability_diagram(reliability: pd.DataFrame, *, title: str = "Reliability") -> Figure:
    """Draw `calibration.reliability`: accuracy against confidence, and the tiles of each bin."""
    figure, (upper, lower) = _charts(7, 6, rows=2, sharex=True, height_ratios=(3, 1))
    bins = reliability[reliability["tiles"] > 0]
    place = {"x": bins["low"], "width": bins["high"] - bins["low"], "align": "edge"}
    place["edgecolor"] = "white"
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="perfect calibration")
    upper.bar(height=bins["accuracy"], color=BLUE, alpha=0.4, label="accuracy of a bin", **place)
    mean = {"color": VERMILLION, "label": "at its mean confidence"}
    upper.plot(bins["confidence"], bins["accuracy"], "o", **mean)
    upper.legend(frameon=False, loc="upper left", fontsize=8)
    upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    lower.bar(height=bins["tiles"], color=GRAY, **place)
    lower.set(xlabel="confidence", ylabel="tiles (log scale)", yscale="log")
    lower.set_ylim(bottom=0.7)
    lower.minorticks_off()
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return figure


def _charts(
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
