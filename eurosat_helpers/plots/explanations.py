"""Why a model answered what it did: tiles, maps of attribution and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from eurosat_helpers.plots.style import BLUE, PLAIN, STYLE, WIDTH

SHOWN = 3  # classes of a row
UNITS = {"Grad-CAM": "part of the logit", "occlusion": "fall of the log-odds"}


def explanations(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    titles: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Draw a row per tile: the tile, its maps of attribution over it, its most likely classes.

    The colors of a kind of map mean the same in all rows, and in all columns of its kind.

    Args:
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        maps: Title of a column, which begins with the kind up to a comma -> N maps of shape
            `(height, width)`, such as `attribution.grad_cam` makes; what is below 0 is drawn as 0.
        probabilities: Shape `(N, C)`.
        class_names: The C classes.
        titles: One per tile.
        title: Of the figure.
    """
    size = (WIDTH, 1.75 * len(images) + 1)
    ratios = {"width_ratios": [1] * (1 + len(maps)) + [1.4]}
    ratios["height_ratios"] = [1] * len(images) + [0.06]  # the last row is for the color bars
    figure, axes = plt.subplots(
        len(images) + 1, 2 + len(maps), figsize=size, gridspec_kw=ratios, **STYLE
    )
    plt.close(figure)
    (*axes, bars), names = axes, [None, *maps]
    for row, image, text in zip(axes, images, titles, strict=True):
        row[0].imshow(np.asarray(image).astype("uint8"))
        row[0].set_ylabel(text, fontsize=8, **PLAIN)
    most = {}  # of each kind
    for name, heats in maps.items():
        kind = name.partition(",")[0]
        most[kind] = max(most.get(kind, 1e-6), np.max(heats))
    for column, (name, heats) in enumerate(maps.items(), start=1):
        # The root shows weak evidence beside the strongest tile, which would leave others black.
        top = most[name.partition(",")[0]]
        scale = {"norm": PowerNorm(0.5, 0, top), "cmap": "inferno"}
        for row, image, heat in zip(axes, images, heats, strict=True):
            row[column].imshow(np.asarray(image).mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            drawn = row[column].imshow(np.maximum(heat, 0), alpha=0.65, **scale)
        axes[0][column].set_title(names[column], fontsize=9, **PLAIN)
        bar = figure.colorbar(drawn, cax=bars[column], orientation="horizontal", format="%.2g")
        bar.set_ticks([0, top / 4, top], minor=False)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(UNITS.get(name.partition(",")[0], ""), fontsize=8)
    for bar in (bars[0], bars[-1]):
        bar.set_axis_off()
    for row, shares in zip(axes, probabilities, strict=True):
        best = np.argsort(-shares)[:SHOWN][::-1]
        row[-1].barh([class_names[number] for number in best], shares[best], color=BLUE)
        plt.setp(row[-1].get_yticklabels(), **PLAIN)
        row[-1].set(xlim=(0, 1), box_aspect=0.6)
        row[-1].xaxis.set_major_formatter(PercentFormatter(1))
        row[-1].tick_params(labelsize=8)
        row[-1].spines[["top", "right"]].set_visible(False)
        for cell in row[:-1]:
            cell.set(xticks=[], yticks=[])
    axes[0][-1].set_title("probability", fontsize=9)
    figure.suptitle(title, **PLAIN)
    return figure
