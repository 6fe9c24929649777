"""Figures of experiments: tables in, Matplotlib figures out."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from eurosat_helpers.plots import BLUE, VERMILLION, WIDTH, _charts


def search_trials(
    trials: pd.DataFrame,
    *,
    x: str = "learning_rate",
    color: str = "batch_size",
    title: str = "Trials of the search",
) -> Figure:
    """Draw the validation accuracy of each trial against one setting, colored by another.

    Args:
        trials: One row a trial with `trial` (its number), `val_accuracy` and the two settings;
            rows without a number in one of them are left out.
        x: Setting along the axis.
        color: Setting of the colors.
        title: Of the figure.

    Returns:
        The figure. The best trial is ringed and bears its number.

    Raises:
        ValueError: If `trials` lacks a column or has no row to draw.
    """
    missing = [name for name in ("trial", "val_accuracy", x, color) if name not in trials]
    if missing:
        raise ValueError(
            f"`trials` must have the column {missing[0]!r}. Received: {', '.join(trials)}"
        )
    table = trials[["trial", "val_accuracy", x, color]].dropna().astype(float)
    if table.empty:
        raise ValueError(f"`trials` must hold a trial with {x} and {color}. Received: none")
    figure, axes = _charts(8, 4.2)
    shades = table[color]
    marks = axes.scatter(
        table[x],
        table["val_accuracy"],
        c=shades,
        cmap="cividis",  # made for color-blind readers too (Nunez et al., arXiv 1712.01662)
        norm=LogNorm() if _spread(shades) else None,
        s=60,
        edgecolor="white",
    )
    best = table.loc[table["val_accuracy"].idxmax()]
    place = best[x], best["val_accuracy"]
    axes.plot(*place, "o", markersize=14, markerfacecolor="none", markeredgecolor=VERMILLION)
    axes.annotate(
        f"trial {best['trial']:.0f}: {best['val_accuracy']:.1%}",
        place,
        xytext=(0, 12),
        textcoords="offset points",
        ha="center",
        color=VERMILLION,
    )
    axes.margins(x=0.12, y=0.18)
    axes.set(
        title=title,
        xlabel=x.replace("_", " "),
        ylabel="validation accuracy",
        xscale="log" if _spread(table[x]) else "linear",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    bar = figure.colorbar(marks, ax=axes, label=color.replace("_", " "))
    if shades.nunique() <= 6:  # a choice
        bar.minorticks_off()
        values = sorted(shades.unique())
        bar.set_ticks(values, labels=[f"{value:g}" for value in values])
    return figure


def _spread(values: pd.Series) -> bool:
    """Whether a logarithmic scale shows the values better."""
    return bool(values.min() > 0 and values.max() / values.min() >= 4)


def accuracy_against_cost(
    table: pd.DataFrame, *, title: str = "Validation accuracy against training time"
) -> Figure:
    """Draw what each run reached and what it cost: up and to the left is better.

    Args:
        table: One row a run with `name`, `seed`, `accuracy` (0-1, on validation) and `seconds`
            (positive), see `runs.table`. A name that is there more than once is listed with its
            seed.
        title: Of the figure.

    Returns:
        The figure. The runs are numbered in the order of `table`.

    Raises:
        ValueError: If there is no run.
    """
    if table.empty:
        raise ValueError("`table` must hold at least one run. Received: none")
    figure, axes = _charts(WIDTH, 4.6)
    repeated = table["name"].duplicated(keep=False)
    seeded = table["name"] + ", seed " + table["seed"].astype(str)
    labels = table["name"].where(~repeated, seeded)
    points = zip(labels, table["seconds"], table["accuracy"], strict=True)
    for number, (label, seconds, accuracy) in enumerate(points, start=1):
        size = 9 if number < 10 else 14  # points; two digits share it
        style = {"marker": f"${number}$", "markersize": size, "linestyle": "none", "color": BLUE}
        axes.plot(seconds, accuracy, label=label, **style)
    axes.set(
        title=title,
        xlabel="training time in seconds (log scale)",
        ylabel="validation accuracy",
        xscale="log",
    )
    axes.margins(0.08)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
