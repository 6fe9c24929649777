"""Draw the figures of the notebooks: arrays and tables in, Matplotlib figures out.

Each function returns a figure that pyplot has already closed, so that it shows once as the last
expression of a notebook cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)

# Okabe and Ito, "Color Universal Design" (2008): told apart by color-blind readers too.
BLUE, GREEN, ORANGE, VERMILLION, GRAY = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#666666"

WIDTH = 10  # inches: a notebook cell


def tile_grid(
    images: np.ndarray, titles: Sequence[str], *, columns: int = 10, title: str = ""
) -> Figure:
    """Draw tiles in rows, each under its title.

    Args:
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        titles: N short texts; a `CamelCase` one that is wider than its tile is broken in lines.
        columns: Tiles in a row.
        title: Of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the number of titles differs.
    """
    _check_lengths(images, titles=titles)
    letters = 15 * WIDTH / columns - 2.5  # that fit over a tile, with a gap to the next
    texts = [
        text
        if max(map(len, text.split("\n"))) <= letters
        else re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", text)
        for text in titles
    ]
    return _grid(images, texts, columns=columns, title=title)


def prediction_grid(
    images: np.ndarray,
    truth: Sequence[str] | None,
    predictions: Sequence[str],
    confidences: Sequence[float],
    *,
    columns: int = 5,
    title: str = "",
    threshold: float | None = None,
) -> Figure:
    """Draw tiles with what the model says about them; mistakes stand out.

    Args:
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        truth: N class names, or None for tiles without a label.
        predictions: N class names.
        confidences: N probabilities of the predicted classes, in 0-1.
        columns: Tiles in a row.
        title: Of the figure.
        threshold: Confidence below which a tile is marked as unsure; None marks none.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ.
    """
    _check_lengths(images, predictions=predictions, confidences=confidences)
    # Never rounded up to certainty.
    percents = [">99%" if share > 0.99 else f"{share:.0%}" for share in confidences]
    texts = [f"{name} {percent}" for name, percent in zip(predictions, percents, strict=True)]
    if truth is not None:
        _check_lengths(images, truth=truth)
        right = [said == true for said, true in zip(predictions, truth, strict=True)]
        texts = [
            f"{'✓' if good else '✗'} {text}\ntruth: {true}"
            for good, text, true in zip(right, texts, truth, strict=True)
        ]
    figure = _grid(images, texts, columns=columns, title=title)
    for index, axes in enumerate(figure.axes[: len(images)]):
        if truth is not None:
            color, width = (GREEN, 1.5) if right[index] else (VERMILLION, 4.5)
            axes.spines[:].set(visible=True, color=color, linewidth=width)
            axes.title.set_color("black" if right[index] else VERMILLION)
        if threshold is not None and confidences[index] < threshold:
            box = {"facecolor": ORANGE, "edgecolor": "none", "pad": 2}
            axes.text(0.05, 0.05, "unsure", transform=axes.transAxes, fontsize=8.5, bbox=box)
    return figure


def class_counts(counts: pd.Series, *, title: str = "Tiles a class") -> Figure:
    """Draw the number of tiles of each class as horizontal bars.

    Args:
        counts: Number of tiles, indexed by class name.
        title: Of the figure.

    Returns:
        The figure.
    """
    figure, axes = _charts(8, 0.32 * len(counts) + 1)
    bars = axes.barh(list(counts.index), counts, color=BLUE)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlabel="tiles")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def training_curves(history: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: One row an epoch with `epoch`, `loss`, `val_loss`, `accuracy`, `val_accuracy`
            and `learning_rate`.
        title: Of the figure.

    Returns:
        The figure.
    """
    figure, (loss, accuracy, rate) = _charts(WIDTH, 3.4, columns=3)
    epochs = history["epoch"]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        axes.plot(epochs, history[name], color=BLUE, marker=".", label="training")
        axes.plot(epochs, history[f"val_{name}"], color=VERMILLION, marker=".", label="validation")
        axes.legend(frameon=False)
    rate.plot(epochs, history["learning_rate"], color=GRAY, marker=".")
    for axes, name in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate")):
        axes.set(title=name.capitalize(), xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(title)
    return figure


def confusion_matrix(confusion: pd.DataFrame, *, title: str = "Confusion matrix") -> Figure:
    """Draw a confusion matrix: counts written, each row colored by its shares.

    Args:
        confusion: Counts, a row a true class and a column a predicted class.
        title: Of the figure.

    Returns:
        The figure.
    """
    counts = confusion.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _charts(9, 7.5)
    # The root lifts the few mistakes of a good model above white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_xticks(range(len(confusion)), confusion.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(confusion)), confusion.index)
    axes.set(title=title, xlabel="prediction", ylabel="truth")
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.3 else "black" if count else "#bbbbbb"
        axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=9, color=color)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0%", "1%", "5%", "20%", "50%", "100%"])
    return figure


def reliability_diagram(reliability: pd.DataFrame, *, title: str = "Reliability") -> Figure:
    """Draw accuracy against confidence, and below it how many tiles each bin holds.

    Args:
        reliability: One row a bin with `low`, `high`, `tiles`, `confidence` and `accuracy`.
        title: Of the figure.

    Returns:
        The figure.
    """
    figure, (upper, lower) = _charts(7, 6, rows=2, sharex=True, height_ratios=(3, 1))
    bins = reliability[reliability["tiles"] > 0]
    place = {"x": bins["low"], "width": bins["high"] - bins["low"], "align": "edge"}
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="perfect calibration")
    upper.bar(
        height=bins["accuracy"],
        color=BLUE,
        alpha=0.4,
        edgecolor="white",
        label="accuracy of a bin",
        **place,
    )
    upper.plot(
        bins["confidence"],
        bins["accuracy"],
        "o",
        color=VERMILLION,
        label="at its mean confidence",
    )
    upper.legend(frameon=False, loc="upper left")
    upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    lower.bar(height=bins["tiles"], color=GRAY, edgecolor="white", **place)
    lower.set(xlabel="confidence", ylabel="tiles (log scale)", yscale="log")
    lower.set_ylim(bottom=0.7)
    lower.minorticks_off()
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def accuracy_by_coverage(table: pd.DataFrame, *, title: str = "Accuracy by coverage") -> Figure:
    """Draw the accuracy of the most confident tiles against their share.

    Args:
        table: `threshold`, `coverage` and `accuracy`, ordered by falling threshold.
        title: Of the figure.

    Returns:
        The figure.
    """
    figure, axes = _charts(8, 3.6)
    axes.plot(table["coverage"], table["accuracy"], color=BLUE)
    axes.set(
        title=title,
        xlabel="coverage: share of the tiles kept, the most confident first",
        ylabel="accuracy of the tiles kept",
        xlim=(0, 1.01),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # a tick at 0.25 % misleads
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return figure


def _check_lengths(images: np.ndarray, **lists: Sequence) -> None:
    for name, values in lists.items():
        if len(values) != len(images):
            raise ValueError(
                f"`{name}` must have one entry for each of the {len(images)} images. "
                f"Received: {len(values)}"
            )


def _grid(images: np.ndarray, texts: Sequence[str], *, columns: int, title: str) -> Figure:
    """Draw each image under its text; where there is none, say so."""
    if len(images) == 0:  # a model that makes no mistake has none to show
        figure, axes = _figure(WIDTH, 1, 1, 1)
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no tiles", ha="center", transform=axes.transAxes)
        figure.suptitle(title)
        return figure
    rows = -(-len(images) // columns)
    lines = max(text.count("\n") for text in texts) + 1
    height = rows * (WIDTH / columns + 0.16 * lines + 0.05) + 0.3
    figure, axes = _figure(WIDTH, height, rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    for cell in axes.flat[len(images) :]:
        cell.set_axis_off()
    for cell, image, text in zip(axes.flat, images, texts, strict=False):
        cell.imshow(np.asarray(image).astype("uint8"), interpolation="lanczos")
        cell.set_title(text, fontsize=8.5 if columns <= 6 else 8, pad=4)
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


def _charts(
    width: float, height: float, *, rows: int = 1, columns: int = 1, **settings: object
) -> tuple[Figure, Axes | np.ndarray]:
    figure, axes = _figure(width, height, rows, columns, **settings)
    for chart in figure.axes:
        chart.spines[["top", "right"]].set_visible(False)
        chart.set_axisbelow(True)
        chart.grid(alpha=0.25)
    return figure, axes


def _figure(
    width: float, height: float, rows: int, columns: int, **settings: object
) -> tuple[Figure, Axes | np.ndarray]:
    """Make a figure (inches) that pyplot forgets at once, else a notebook shows it twice."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), dpi=100, layout="constrained", **settings
    )
    plt.close(figure)
    return figure, axes
