"""Draw accuracy and training time against the number of training tiles, and against epochs.

Run `python tests/benchmarks/cost.py FOLDER ...` where the environment variable EUROSAT_ARCHIVE
names EuroSAT.zip, or the zip lies in `EuroSAT/`; about 15 minutes on 2 Zen 5 cores. The recipe is
that of training.ipynb. FOLDER is a model that training.ipynb has saved from all tiles, one of them
with its defaults: epochs, time and validation accuracy of each join the figure. Fewer than 2,560
tiles are repeated up to that number within an epoch: a pass over 100 tiles would be one step.
`results/cost.csv` and `results/cost.png` are written; an interrupted run resumes. No test tile is
used.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from eurosat_helpers import artifact, data, devices, models, pipeline, training
from eurosat_helpers.plots import charts
from eurosat_helpers.plots.style import BLUE

PROJECT = Path(__file__).resolve().parents[2]
TILES = (100, 300, 1000, 3000, 10_000)
AT_LEAST = 2560  # tiles per epoch: 20 steps
RECIPE = ("seed", "epochs", "batch_size", "learning_rate", "weight_decay", "label_smoothing")
RECIPE += ("mixup", "muon", "compressed", "cropped")


def train(
    tiles: data.Tiles, validation: data.Tiles, changed: float, recipe: dict[str, object]
) -> dict[str, float]:
    """Train on these tiles; return a row."""
    mean, variance = pipeline.channel_statistics(tiles)
    network = {"changed": changed, "seed": recipe["seed"]}
    model = models.build_cnn(mean=mean, variance=variance, **network)
    repeated = tiles[np.resize(np.arange(len(tiles)), max(len(tiles), AT_LEAST))]
    history = training.fit(model, repeated, validation, checkpoint_dir="checkpoints/cost", **recipe)
    row = {"tiles": len(tiles), "epochs": recipe["epochs"]}
    return row | {"accuracy": history.val_accuracy.max(), "seconds": history.seconds.sum()}


def draw(by_tiles: pd.DataFrame, by_epochs: pd.DataFrame) -> Figure:
    """Accuracy above, minutes below; tiles left, epochs right."""
    figure, axes = charts.draw_axes(10, 6, rows=2, ncols=2, sharex="col")
    for column, (table, key) in enumerate(((by_tiles, "tiles"), (by_epochs, "epochs"))):
        upper, lower = axes[:, column]
        upper.plot(table[key], 100 * table["accuracy"], "o-", color=BLUE)
        lower.plot(table[key], table["seconds"] / 60, "o-", color=BLUE)
        upper.set(xscale="log")
        lower.set(xlabel=f"training {key} (log scale)", yscale="log", xticks=table[key])
        lower.minorticks_off()
        lower.margins(0.12)
        lower.tick_params(axis="x", labelsize=8)
        lower.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        lower.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        upper.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
        upper.margins(0.12)
        for chart, values in ((upper, 100 * table["accuracy"]), (lower, table["seconds"] / 60)):
            place = {"xytext": (5, -12), "textcoords": "offset points"}
            for x, value in zip(table[key], values, strict=True):
                chart.annotate(f"{value:.1f}", (x, value), fontsize=8, **place)
        upper.set(ylabel="validation accuracy")
    axes[0, 0].set(title=f"{by_tiles['epochs'].iloc[-1]} epochs")
    title = f"{by_epochs['tiles'].iloc[-1]:,} tiles (45: with mix-up; 150: also a teacher)"
    axes[0, 1].set_title(title, fontsize=10)
    for chart in axes[1]:
        chart.set(ylabel="training time, minutes (log scale)")
    figure.suptitle("What more tiles and more epochs give and cost, EuroSAT RGB")
    return figure


def main() -> None:
    """Train, print and draw."""
    folders = [Path(folder).resolve() for folder in sys.argv[1:]]
    os.chdir(PROJECT)
    cells = papermill.inspect_notebook("training.ipynb")
    recipe = {name: ast.literal_eval(cells[name]["default"]) for name in RECIPE}
    changed = ast.literal_eval(cells["changed"]["default"])
    devices.set_up(seed=recipe["seed"])
    everything, validation, _ = data.split(data.load("EuroSAT"))
    if everything.demo:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    rows = [
        train(data.sample(everything, count, seed=0), validation, changed, recipe)
        for count in TILES
    ]
    for folder in folders:
        saved = artifact.load(folder).metadata
        row = {"tiles": len(everything), "epochs": saved["epochs"], "seconds": saved["seconds"]}
        rows.append(row | {"accuracy": saved["scores"]["validation"]["accuracy"]})
    table = pd.DataFrame(rows)
    table.to_csv("results/cost.csv", index=False)
    print(table.round(4).to_string(index=False))
    by_tiles = table[table["epochs"] == recipe["epochs"]].sort_values("tiles")
    by_epochs = table[table["tiles"] == len(everything)].sort_values("epochs")
    draw(by_tiles, by_epochs).savefig("results/cost.png")


if __name__ == "__main__":
    main()
