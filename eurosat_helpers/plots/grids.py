"""Tiles in rows, and what a model says about them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from eurosat_helpers.plots.style import GREEN, PLAIN, PURPLE, STYLE, VERMILLION, WIDTH


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
        cell.set_title(text, fontsize=8.5 if columns <= 6 else 8, pad=4, **PLAIN)
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for cell in axes.flat[len(images) :]:
        cell.set_axis_off()
    figure.suptitle(title if titles else f"{title} (no tiles)", **PLAIN)
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
    unfamiliar = [False] * len(images) if unfamiliar is None else unfamiliar
    given = {"images": images, "truth": truth, "predictions": predictions}
    given |= {"confidences": confidences, "unfamiliar": unfamiliar}
    lengths = {name: len(values) for name, values in given.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"All must have one entry per tile. Received: {lengths}")
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
            text, color = ("unfamiliar", PURPLE) if unlike else ("unsure", "white")
            box = {"facecolor": color, "edgecolor": "none", "pad": 2}
            axes.text(0.05, 0.05, text, transform=axes.transAxes, fontsize=8.5, bbox=box)
    return figure
