"""Which labels of EuroSAT look wrong? An audit of all 27,000 by networks that did not learn them.

Run `python examples/label_audit.py` after `pip install cleanlab`, where EUROSAT_ARCHIVE names
EuroSAT.zip, or the zip lies in `EuroSAT/`. It takes about 40 minutes on 2 cores; folds that are
done are not computed again.

Five networks, each fine-tuned on four fifths of the tiles (MobileNet 0.75 with ImageNet weights,
4 epochs), give the probabilities of the other fifth. `docs/label_issues.csv` lists the tiles whose
likeliest class is not their label, the least likely label first: file, label, suggested label,
score (probability of the given label, 0 to 1), whether confident learning (Northcutt et al., arXiv
1911.00068) flags it as wrong, and `judgement`, which is written after a look at the tile and kept
when the audit runs again: "wrong" (the suggested label fits, the given one does not), "right" (the
other way round), or "unclear" (both fit, or neither, or the picture does not tell). A row that was
judged stays, without a score and at the end, where the networks no longer contradict it.
`docs/label_issues.png` shows the first 100.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from pathlib import Path

import cleanlab
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from cleanlab.filter import find_label_issues
from experiments import BASE, logits
from scipy.special import softmax
from sklearn.model_selection import StratifiedKFold

from eurosat_helpers import (
    artifact,
    calibration,
    data,
    devices,
    evaluation,
    files,
    plots,
    training,
)
from eurosat_helpers.improvements import bases, transfer

SEED, FOLDS, SHOWN = 0, 5, 100
RESULTS, TABLE = Path("results/label_audit"), Path("docs/label_issues.csv")
HEAD = {"epochs": 6, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05}
FINE_TUNING = {"epochs": 4, "batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.05}
FINE_TUNING |= {"muon": False}


def probabilities_of(
    fold: int, tiles: data.Tiles, others: data.Tiles, strategy: tf.distribute.Strategy
) -> np.ndarray:
    """Train on `others`, and predict `tiles`; one in twenty others chooses epoch and temperature.

    No smoothed labels and no mix-up: a network that must be certain of its own labels says more
    about those of others.
    """
    settings = repr([BASE, SEED, FOLDS, HEAD, FINE_TUNING, keras.__version__, *others.names])
    file = RESULTS / f"fold_{fold}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}.npy"
    if file.exists():
        return np.load(file)
    validation = np.arange(len(others)) % 20 == 0
    train, validation = others[~validation], others[validation]
    with strategy.scope():
        model = bases.build_transfer(BASE, seed=SEED + fold)
    transfer.fit_head(model, train, validation, seed=SEED + fold, **HEAD)
    transfer.unfreeze(model, fixed_statistics=False)
    folder = f"checkpoints/label_audit_{file.stem}"  # a run does not know what head it began with
    training.fit(model, train, validation, seed=SEED + fold, checkpoint_dir=folder, **FINE_TUNING)
    temperature = calibration.fit_temperature(validation.labels, logits(model, validation))
    probabilities = softmax(logits(model, tiles) / temperature, axis=1)
    np.save(packed := io.BytesIO(), probabilities)
    files.write(file, packed.getbuffer())
    keras.utils.clear_session()
    return probabilities


def issues(tiles: data.Tiles, probabilities: np.ndarray) -> pd.DataFrame:
    """Make the table of labels that the networks contradict, the least likely first.

    Judgements of other rows come last, without a score.
    """
    ranked = {"return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    other = find_label_issues(
        tiles.labels, probabilities, filter_by="predicted_neq_given", **ranked
    )
    names, given = np.array(tiles.class_names), tiles.labels[other]
    table = pd.DataFrame({"file": np.array(tiles.names)[other], "label": names[given]})
    table["suggested"] = names[probabilities[other].argmax(axis=1)]
    table["score"] = probabilities[other, given].round(6)
    table["flagged"] = np.isin(other, find_label_issues(tiles.labels, probabilities, **ranked))
    if not TABLE.exists():
        return table.assign(judgement="")
    # A judgement is of two labels: it does not hold for another suggestion.
    keys = ["file", "label", "suggested"]
    known = pd.read_csv(TABLE, keep_default_na=False)[[*keys, "judgement"]]
    again = known.set_index(keys).index.isin(table.set_index(keys).index)
    kept = known[~again & (known.judgement != "")].assign(flagged=False)
    table = table.merge(known, "left", on=keys).fillna({"judgement": ""})
    return pd.concat([table, kept], ignore_index=True)


def cleaned(tiles: data.Tiles, table: pd.DataFrame) -> pd.DataFrame:
    """Score the shipped model on its test tiles with the labels as given, and cleaned."""
    classifier = artifact.load("saved_model/eurosat_cnn")
    test = data.select(tiles, classifier.test_names)
    probabilities = classifier.predict(test.images)
    flagged = np.isin(test.names, table.file[table.flagged])
    wrong = table[table.judgement == "wrong"].set_index("file").suggested
    truth = pd.Series(test.names).map(wrong).fillna(pd.Series(test.truth))
    corrected = truth.map({name: label for label, name in enumerate(tiles.class_names)}).to_numpy()
    return pd.DataFrame(
        {
            "as given": evaluation.scores(test.labels, probabilities),
            "wrong ones corrected": evaluation.scores(corrected, probabilities),
            "without all that are flagged": evaluation.scores(
                test.labels[~flagged], probabilities[~flagged]
            ),
        }
    ).T


def main() -> None:
    """Audit all labels, print what was found, and write the table and the picture."""
    os.chdir(Path(__file__).resolve().parent.parent)  # the paths are those of the project
    strategy = devices.set_up(seed=SEED)
    tiles = data.load("EuroSAT")
    if tiles.demo:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    probabilities = np.empty((len(tiles), len(tiles.class_names)), np.float32)
    for fold, (others, held) in enumerate(folds.split(tiles.labels, tiles.labels)):
        probabilities[held] = probabilities_of(fold, tiles[held], tiles[others], strategy)
        scores = evaluation.scores(tiles.labels[held], probabilities[held])
        print(f"fold {fold + 1} of {FOLDS}: {scores['accuracy']:.2%} of {len(held):,}", flush=True)
    print(f"cleanlab {cleanlab.__version__}, Keras {keras.__version__}")
    print(pd.Series(evaluation.scores(tiles.labels, probabilities)).to_string())
    table = issues(tiles, probabilities)
    files.write(TABLE, table.to_csv(index=False).encode())
    judged, table = table, table.dropna(subset="score")
    counts = pd.crosstab(table.label[table.flagged], table.suggested[table.flagged], margins=True)
    print(f"{len(table)} answers differ, {table.flagged.sum()} of them are flagged:")
    print(counts.to_string())
    print(pd.crosstab(table.judgement[:SHOWN], "labels").to_string())
    print(cleaned(tiles, judged).round(4).to_string())
    first = data.select(tiles, table.file[:SHOWN])
    sign = table.judgement.map({"wrong": "✗ ", "right": "✓ ", "unclear": "? ", "": ""})
    titles = (sign + table.label + "\n→ " + table.suggested)[:SHOWN]
    titles = titles.str.replace("HerbaceousVegetation", "Herbaceous")
    title = f"The {SHOWN} least likely labels of EuroSAT RGB, given → suggested; after a look at "
    title += "the picture:\n✗ the given one is wrong, ✓ it is right, ? the picture does not tell"
    figure = plots.tile_grid(first.images, list(titles), columns=8, title=title)
    figure.savefig("docs/label_issues.png")


if __name__ == "__main__":
    main()
