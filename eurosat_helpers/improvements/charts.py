"""The figure of all runs: their table in, a Matplotlib figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from eurosat_helpers.plots.charts import draw_axes
from eurosat_helpers.plots.style import BLUE, GRAY, PLAIN, WIDTH


def accuracy_against_cost(
    table: pd.DataFrame, *, title: str = "Validation accuracy against training time"
) -> Figure:
    """Draw what each run reached and what it cost: up and to the left is better.

    Args:
        table: One row per run with `name`, `accuracy` (0-1, on validation) and `seconds`
            (positive), see `runs.table`.
        title: Of the figure.

    Returns:
        The figure. The runs are numbered in the order of `table`.

    Raises:
        ValueError: If there is no run.
    """
    if table.empty:
        raise ValueError("`table` must hold at least one run. Received: none")
    figure, axes = draw_axes(WIDTH, max(4.6, 0.8 + 0.22 * len(table)))
    names = [f"{number}  {name}" for number, name in enumerate(table["name"], start=1)]
    for name, seconds, accuracy in zip(names, table["seconds"], table["accuracy"], strict=True):
        axes.plot(seconds, accuracy, "o", color=BLUE, markersize=4, label=name)
    axes.set_title(title, **PLAIN)
    axes.set(xlabel="training time in seconds (log scale)", xscale="log")
    axes.set_ylabel("validation accuracy")
    axes.margins(0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=0)
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        handle.set_visible(False)
        text.set(**PLAIN)
    figure.draw_without_rendering()  # settles where the points are
    points = axes.transData.transform(table[["seconds", "accuracy"]].to_numpy())
    points *= 72 / figure.dpi  # as offsets are given
    angles = np.pi * np.array([0.5, 0, 1, 1.5, 0.25, 0.75, 1.25, 1.75])
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    taken = points
    for number, point in enumerate(points, start=1):
        places = np.concatenate([point + radius * ring for radius in range(10, 200, 10)])
        # The first place with room for two digits.
        gaps = np.abs(places[:, None] - taken) / (14, 9)
        place = places[np.argmax(gaps.max(axis=2).min(axis=1) >= 0.95)]
        taken = np.concatenate([taken, place[None]])
        axes.annotate(
            str(number),
            table[["seconds", "accuracy"]].iloc[number - 1],
            place - point,
            textcoords="offset points",
            ha="center",
            va="center",
            color=BLUE,
            arrowprops={"arrowstyle": "-", "color": GRAY, "linewidth": 0.5, "shrinkA": 0},
        )
    return figure
