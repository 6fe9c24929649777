"""Deep features: what a network computes of a tile, for the classifiers of scikit-learn."""

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

from eurosat_helpers import pipeline
from eurosat_helpers.data import Tiles


def _calibrated(machine: ClassifierMixin, seed: int) -> ClassifierMixin:
    """Scale the features of a support vector machine and turn its margins into probabilities.

    One sigmoid per class (Platt 1999), fitted on margins of tiles that were left out of three
    folds.
    """
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    machine = make_pipeline(StandardScaler(), machine)
    return CalibratedClassifierCV(machine, cv=folds, ensemble=False)


# Name: from a seed to a classifier that is not fitted yet, with scikit-learn's settings: support
# vector machines (Cortes and Vapnik 1995), a random forest (Breiman 2001) and gradient boosting on
# histograms (Ke et al., LightGBM, NeurIPS 2017). Trees need no scaled features and have
# probabilities of their own. Hundreds of scaled features separate a few tiles at once: the small C
# keeps the linear machine from overfitting, which would also take long. Where there are more tiles
# than features, its primal problem is the easier one.
CLASSIFIERS = {
    "linear SVM": lambda seed: _calibrated(LinearSVC(C=0.01, dual=False), seed),
    "RBF SVM": lambda seed: _calibrated(SVC(kernel="rbf"), seed),
    "random forest": lambda seed: RandomForestClassifier(300, random_state=seed, n_jobs=-1),
    "gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


def extract(model: keras.Model, tiles: Tiles, *, layer: str = "head-pool") -> np.ndarray:
    """Compute the output of a layer of a network for each tile, without augmentation.

    Args:
        model: A Keras model of raw pixels, such as `models.build_cnn` builds.
        tiles: The tiles.
        layer: Name of a layer of `model` with one vector per tile, such as global pooling.

    Returns:
        float32 features of shape `(N, F)`.

    Raises:
        ValueError: If there is no tile, no such layer, or its output is not one vector per tile.
    """
    output = model.get_layer(layer).output
    if len(output.shape) != 2:
        raise ValueError(
            "`layer` must name a layer with one vector per tile, such as the pooling after the "
            f"last convolution. Received: {layer!r}, whose output has shape {tuple(output.shape)}"
        )
    with model.distribute_strategy.scope():
        network = keras.Model(model.input, output)
    return network.predict(pipeline.dataset(tiles, batch_size=250), verbose=0)
