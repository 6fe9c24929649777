"""Compare scores that tell images that are not EuroSAT tiles from those that are.

Run `python tests/benchmarks/outliers.py [FOLDER]` where the environment variable EUROSAT_ARCHIVE
names EuroSAT.zip; FOLDER is that of the saved model, by default the shipped one. Each score is
fitted on training tiles, as they are and as `RandomAppearance` changes them, and its threshold set
on validation tiles so that at most 3 % of them are refused, and at most 5 % of them changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib.cbook
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from eurosat_helpers import artifact, augmentation, corruptions, data
from eurosat_helpers import models as _layers_of_the_keras_file  # noqa: F401

PROJECT = Path(__file__).resolve().parents[2]
COUNT = 300  # images of each kind
SIDES = (64, 128, 256, 400)  # pixels of the windows that are cut from photographs


def photographs(rng: np.random.Generator) -> np.ndarray:
    """Windows of three photographs: a temple, a flower, a portrait."""
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    pictures.append(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")))
    windows = []
    for number in range(COUNT):
        picture, side = pictures[number % 3], int(rng.choice(SIDES))
        left, top = (int(rng.integers(length - side)) for length in picture.size)
        box = (left, top, left + side, top + side)
        windows.append(np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR, box)))
    return np.stack(windows)


def text(rng: np.random.Generator) -> np.ndarray:
    """Lines of letters in one color on another."""
    pages = []
    for _ in range(COUNT):
        paper, ink = (tuple(map(int, color)) for color in rng.integers(0, 256, (2, 3)))
        page = Image.new("RGB", (64, 64), paper)
        for top in range(2, 64, int(rng.integers(9, 16))):
            line = "".join(rng.choice(list("abcdefghijklmnop QRSTUV0123"), 12))
            ImageDraw.Draw(page).text((2, top), line, fill=ink)
        pages.append(np.asarray(page))
    return np.stack(pages)


def cloud(rng: np.random.Generator) -> np.ndarray:
    """Thick cloud: bright, smooth, a little noise."""
    field = ndimage.gaussian_filter(rng.normal(size=(COUNT, 64, 64)), (0, 6, 6))
    field = (field - field.min((1, 2), keepdims=True)) / np.ptp(field, (1, 2), keepdims=True)
    bright = 200 + rng.uniform(0, 55, (COUNT, 1, 1, 1)) * field[..., None]
    return bright + rng.normal(0, 2, (COUNT, 64, 64, 3))


def kinds(tiles: np.ndarray) -> dict[str, np.ndarray]:
    """Images uint8 `(N, 64, 64, 3)` of each kind; some are made from tiles."""
    rng = np.random.default_rng(7)
    flat = np.ones((COUNT, 64, 64, 1)) * rng.integers(1, 256, (COUNT, 1, 1, 3))
    digits = [
        Image.fromarray((16 * digit).clip(0, 255).astype("uint8"))
        for digit in load_digits().images[:COUNT]
    ]
    missing, half = tiles.copy(), tiles.copy()
    missing[np.arange(COUNT), :, :, rng.integers(0, 3, COUNT)] = 0
    for image, edge in zip(half, rng.integers(24, 56, COUNT), strict=True):
        image[:edge] = 0
    found = {
        "photographs": photographs(rng),
        "text": text(rng),
        "digits": np.stack([np.asarray(digit.resize((64, 64)).convert("RGB")) for digit in digits]),
        "one flat color": flat,
        "flat with noise": flat + rng.normal(0, 3, (COUNT, 64, 64, 3)),
        "uniform noise": rng.integers(0, 256, (COUNT, 64, 64, 3)),
        "thick cloud": cloud(rng),
        "black": np.zeros((1, 64, 64, 3)),
        "half without data": half,
        "a band missing": missing,
        "red and blue swapped": tiles[..., ::-1],
        "values 0 to 1": tiles / 255,
        "values divided by 10": tiles / 10,
        "offset of 1000 left in": tiles + 1000 * 254 / 2750,
    }
    return {name: np.rint(images).clip(0, 255).astype("uint8") for name, images in found.items()}


def scores(features: np.ndarray, logits: np.ndarray, head: list[np.ndarray]) -> dict[str, Callable]:
    """Published scores on the features before the logits: functions of `(features, logits)`."""
    kernel, bias = head
    center = features.mean(axis=0)
    gap = np.linalg.norm(kernel[:, :, None] - kernel[:, None], axis=0) + np.eye(len(bias))

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def boundary_distance(rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        best = outputs.argmax(axis=1)
        distances = (outputs.max(axis=1, keepdims=True) - outputs) / gap[best]
        return -distances.mean(axis=1) / np.linalg.norm(rows - center, axis=1)

    neighbors = NearestNeighbors(n_neighbors=50).fit(unit(features))
    origin = -np.linalg.pinv(kernel.T) @ bias
    _, vectors = np.linalg.eigh((features - origin).T @ (features - origin))
    rest = vectors[:, : len(center) // 2]  # the directions of least variance
    alpha = logits.max(axis=1).mean() / np.linalg.norm((features - origin) @ rest, axis=1).mean()
    return {
        "maximum softmax (1610.02136)": lambda _, z: -softmax(z, axis=1).max(axis=1),
        "energy (2010.03759)": lambda _, z: -logsumexp(z, axis=1),
        "KNN (2204.06507)": lambda x, _: neighbors.kneighbors(unit(x))[0][:, -1],
        "fDBD (2312.11536)": boundary_distance,
        "ViM (2203.10807)": lambda x, z: (
            alpha * np.linalg.norm((x - origin) @ rest, axis=1) - logsumexp(z, axis=1)
        ),
    }


def main() -> None:
    """Print AUROC, FPR at 95 % and the share answered as sure, per score and kind of image."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "saved_model" / "eurosat_cnn"
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    classifier = artifact.load(folder)
    metadata = classifier.metadata
    tiles = data.load(PROJECT / "EuroSAT")
    train, validation, test = data.split(tiles, **metadata["split"])
    inner = keras.Model(model.input, [model.get_layer("head-pool").output, model.output])

    def answers(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features, logits = inner.predict(images, batch_size=250, verbose=0)
        return features, logits, classifier.serve(images)["unfamiliarity"]

    def changed_as_in_training(tiles: data.Tiles) -> np.ndarray:
        layer = augmentation.RandomAppearance(1.0, seed=0)
        batches = np.array_split(tiles.images.astype("float32"), max(1, len(tiles) // 500))
        return np.round(np.concatenate([layer(batch, training=True) for batch in batches]))

    known = data.sample(train, 3000, seed=0)
    fitted = [answers(images) for images in (known.images, changed_as_in_training(known))]
    features, logits, _ = (np.concatenate(parts) for parts in zip(*fitted, strict=True))
    compared = scores(features, logits, model.get_layer("head-logits").get_weights())
    compared = {name: lambda a, f=f: f(a[0], a[1]) for name, f in compared.items()}
    compared["unfamiliarity (exported)"] = lambda a: a[2]
    clean, changed = answers(validation.images), answers(changed_as_in_training(validation))
    unseen = answers(test.images[::2])
    some = data.sample(test, COUNT, seed=0).images
    corrupted = [answers(corruptions.corrupt(some, name)) for name in corruptions.CORRUPTIONS]
    strange = {name: answers(images) for name, images in kinds(some).items()}
    certain = metadata["confidence_threshold"]["threshold"]

    def sure(answer: tuple[np.ndarray, ...]) -> np.ndarray:
        return softmax(answer[1] / metadata["temperature"], axis=1).max(axis=1) >= certain

    rows = {"confidence alone": {name: sure(one).mean() for name, one in strange.items()}}
    for name, score in compared.items():
        limit = max(np.quantile(score(clean), 0.97), np.quantile(score(changed), 0.95))
        row = {"test tiles refused": np.mean(score(unseen) > limit)}
        row["19 changes: refused"] = np.mean([np.mean(score(one) > limit) for one in corrupted])
        inside, areas, false = score(unseen), [], []
        for kind, one in strange.items():
            outside = score(one)
            truth = np.repeat([0, 1], [len(inside), len(outside)])
            areas.append(roc_auc_score(truth, np.concatenate([inside, outside])))
            false.append(np.mean(outside <= np.quantile(inside, 0.95)))
            row[kind] = np.mean(sure(one) & (outside <= limit))
        row |= {"AUROC": np.mean(areas), "FPR at 95 %": np.mean(false)}
        rows[name] = row
    table = pd.DataFrame(rows).T
    table["mean of the kinds"] = table[list(strange)].mean(axis=1)
    print("\nShares answered as sure and not refused, in percent")
    print(table.T.mul(100).round(1).to_string())


if __name__ == "__main__":
    main()
