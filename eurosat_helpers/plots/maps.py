"""A scene and its land cover."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from eurosat_helpers.plots.style import PLAIN, STYLE

# Of the ten classes of EuroSAT in their order. Any two differ by 30 or more (CIE 1976), for readers
# with each kind of color blindness too (Machado et al. 2009). Further classes get Matplotlib's.
CLASS_COLORS = ("#FFEE27", "#002518", "#C8FFC3", "#724D6D", "#D593C2", "#91A26D", "#E1840B")
CLASS_COLORS += ("#B62018", "#359FFF", "#3037C3")
CLASS_COLORS += tuple(
    to_hex(color) for name in ("tab20", "tab20b") for color in matplotlib.colormaps[name].colors
)


def scene_map(
    picture: np.ndarray,
    classes: np.ndarray,
    confidence: np.ndarray,
    unfamiliar: np.ndarray,
    class_names: Sequence[str],
    *,
    size: tuple[float, float] | None = None,
    cell_metres: float = np.nan,
    title: str = "Land cover",
) -> Figure:
    """Draw a scene beside its land-cover map and the confidence.

    Args:
        picture: The scene, uint8 `(height, width, 3)`.
        classes: Number of the class per cell, `(rows, columns)`; 255 where there is no data.
        confidence: In 0-1, of the same shape.
        unfamiliar: Whether the class should not be used, bool of the same shape; hatched.
        class_names: The name of each number, at most fifty.
        size: Height and width of the picture in cells, where the last row and column of cells are
            smaller than the others; `None` takes the shape of `classes`.
        cell_metres: Width of a cell on the ground, for the scale bar; NaN draws none.
        title: The title of the figure.
    """
    rows, columns = size or classes.shape
    height = 4.4 * min(2.0, max(0.4, rows / columns)) + 1.0
    figure, axes = plt.subplots(1, 3, figsize=(14, height), **STYLE)
    plt.close(figure)
    extent = (0, classes.shape[1], classes.shape[0], 0)
    axes[0].imshow(
        np.clip(picture * (230 / max(1, np.percentile(picture, 98))), 0, 255).astype("uint8"),
        extent=(0, columns, rows, 0),
    )
    colors = ListedColormap(CLASS_COLORS[: len(class_names)])
    drawn = np.ma.masked_equal(classes, 255)
    axes[1].imshow(
        drawn,
        cmap=colors,
        vmin=-0.5,
        vmax=len(class_names) - 0.5,
        extent=extent,
        interpolation="nearest",
    )
    shade = axes[2].imshow(
        confidence, cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest"
    )
    figure.colorbar(shade, ax=axes[2], format=PercentFormatter(1), shrink=0.8)
    present = [number for number in range(len(class_names)) if (classes == number).any()]
    keys = [Patch(facecolor=CLASS_COLORS[number], label=class_names[number]) for number in present]
    if unfamiliar.any():
        corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
        cells = np.argwhere(unfamiliar)[:, None, ::-1] + np.array(corners)
        axes[1].add_collection(
            PolyCollection(cells, hatch="xxxx", facecolor="none", edgecolor="black", linewidth=0)
        )
        keys.append(Patch(facecolor="white", edgecolor="black", hatch="xxxx", label="unfamiliar"))
    place = {"ncols": 6, "fontsize": 9, "frameon": False, "loc": "outside lower center"}
    plt.setp(figure.legend(handles=keys, **place).get_texts(), **PLAIN)
    if np.isfinite(cell_metres):
        metres = 10 ** np.floor(np.log10(cell_metres * columns / 2))
        metres *= max(step for step in (1, 2, 5) if step * metres <= cell_metres * columns / 2)
        bar = columns * 0.03 + np.array([0, metres / cell_metres])
        axes[0].plot(bar, [rows * 0.96] * 2, color="white", linewidth=3)
        text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
        axes[0].text(bar.mean(), rows * 0.94, text, color="white", ha="center", va="bottom")
    for chart, name in zip(axes, ("scene", "class", "confidence"), strict=True):
        chart.set(title=name, xticks=[], yticks=[], aspect="equal")
        chart.set(xlim=(0, columns), ylim=(rows, 0))
    figure.suptitle(title, **PLAIN)
    return figure
