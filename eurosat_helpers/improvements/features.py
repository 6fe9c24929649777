"""Deep features: what a network sees in a tile, for the classifiers of scikit-learn."""

from __future__ import annotations

import keras
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC


def _calibrated(machine: ClassifierMixin, seed: int) -> ClassifierMixin:
    """Scale the features of a support vector machine and turn its margins into probabilities.

    A sigmoid a class (Platt 1999), fitted on margins of tiles that were left out of three folds.
    """
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), machine)
    return CalibratedClassifierCV(pipeline, cv=folds, ensemble=False)


# Name: from a seed to a classifier that is not fitted yet. Trees need no scaled features and have
# probabilities of their own. Hundreds of scaled features separate a few tiles at once: the small C
# keeps the linear machine from learning them by heart, for which it would also take long. Where
# there are more tiles than features, its primal problem is the easier one.
CLASSIFIERS = {
    "linear SVM": lambda seed: _calibrated(LinearSVC(C=0.01, dual=False), seed),
    "RBF SVM": lambda seed: _calibrated(SVC(kernel="rbf"), seed),
    "random forest": lambda seed: RandomForestClassifier(300, random_state=seed, n_jobs=-1),
    "gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


def extract(
    model: keras.Model, images: np.ndarray, *, layer: str = "head-pool", batch_size: int = 500
) -> np.ndarray:
    """Compute what a layer of a network gives for each tile, without augmentation.

    Args:
        model: A Keras model of raw pixels, such as `models.build_cnn` builds.
        images: Pixels in 0-255, shape `(N, 64, 64, 3)`.
        layer: Name of a layer of `model` with one vector a tile, such as that of global pooling.
        batch_size: Tiles computed at once.

    Returns:
        float32 features of shape `(N, F)`.

    Raises:
        ValueError: If there is no image, no such layer, or its output is not a vector a tile.
    """
    if len(images) == 0:
        raise ValueError("`images` holds no tile: expected at least one.")
    output = model.get_layer(layer).output
    if len(output.shape) != 2:
        raise ValueError(
            "`layer` must name a layer with one vector a tile, such as the pooling after the last "
            f"convolution. Received: {layer!r}, whose output has shape {tuple(output.shape)}"
        )
    network = keras.Model(model.input, output)
    batches = [
        network.predict_on_batch(images[start : start + batch_size].astype("float32"))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches).astype("float32", copy=False)


def fit_classifier(
    name: str, features: np.ndarray, labels: np.ndarray, *, seed: int
) -> ClassifierMixin:
    """Train a classifier of scikit-learn on features.

    Args:
        name: "linear SVM" or "RBF SVM" (Cortes and Vapnik 1995), "random forest" (Breiman 2001)
            or "gradient boosting" (on histograms of the features, as in Ke et al., LightGBM,
            NeurIPS 2017), with scikit-learn's settings.
        features: Features of the training tiles, `(N, F)`, see `extract`.
        labels: Integers in `[0, C)`, shape `(N,)`; each class occurs, three times for the machines.
        seed: Seed of the trees, and of the folds that calibrate the machines.

    Returns:
        The classifier, whose `predict_proba(features)` gives probabilities `(N, C)`.

    Raises:
        ValueError: If there is no such classifier, or `labels` does not fit.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"`name` must be one of {', '.join(CLASSIFIERS)}. Received: {name!r}")
    labels = np.asarray(labels)
    present = np.unique(labels)
    # scikit-learn would leave out the column of a class that is missing, and shift the others.
    if labels.shape != (len(features),) or not np.array_equal(present, range(len(present))):
        raise ValueError(
            f"`labels` must be {len(features)} integers, one a row of `features`, with each class "
            f"from 0 on. Received: shape {labels.shape} with {present[:20]}"
        )
    return CLASSIFIERS[name](seed).fit(features, labels)
