"""Hints: what a pretrained network sees in the tiles, for another one to predict too."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import applications, layers, ops
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eurosat_helpers import files, pipeline
from eurosat_helpers.data import IMAGE_SIZE, Tiles

MOBILENET = partial(applications.MobileNet, alpha=0.75)
SIDE = 96  # pixels to which the tiles are enlarged
LAYERS = ("conv_pw_11_relu", "conv_pw_13_relu")  # the second is the last one


def features(
    tiles: Tiles,
    teacher: keras.Model,
    *,
    size: int = 128,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, float]:
    """Describe tiles by the features that a MobileNet 0.75 has of them.

    The outputs of two of its layers, averaged over the tile and over four of its symmetries, are
    standardized and reduced to their principal components, each with a variance of 1. A network
    that learns to predict them of a changed tile (`training.fit`) learns what stays the same
    (FitNets: Romero et al., arXiv 1412.6550).

    Args:
        tiles: The training tiles.
        teacher: A model of `bases.build_transfer("MobileNet_0.75")`, fine-tuned on the training
            tiles alone.
        size: Number of the components, at most that of the tiles.
        checkpoint_dir: Folder in which the features are kept. Their last bits depend on the number
            of threads, and a run that is to resume (see `training.fit`) needs the same ones.

    Returns:
        float32 features, shape `(N, size)`, and the seconds that it took to compute them.

    Raises:
        ValueError: If the file in `checkpoint_dir` is damaged.
    """
    base = teacher.get_layer("base")
    digest = hashlib.sha256(f"{size} {keras.__version__}".encode())
    for array in (*base.get_weights(), tiles.images):
        digest.update(np.ascontiguousarray(array))
    kept = checkpoint_dir and Path(checkpoint_dir).expanduser()
    kept = kept and kept / f"features-{digest.hexdigest()[:16]}.npz"
    if kept and kept.is_file():
        try:
            with kept.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return file["features"], float(file["seconds"])
        except Exception as error:  # NumPy parses a header as Python source
            raise ValueError(f"`{kept}` is damaged: delete it. {error}") from error
    begin = time.perf_counter()
    means = [layers.GlobalAveragePooling2D()(base.get_layer(name).output) for name in LAYERS]
    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    enlarged = ops.image.resize(images, (SIDE, SIDE), interpolation="bilinear") / 127.5 - 1
    network = keras.Model(images, keras.Model(base.input, layers.Concatenate()(means))(enlarged))
    x = tiles.images
    views = (x, x[:, ::-1], x.transpose(0, 2, 1, 3), x[:, :, ::-1].transpose(0, 2, 1, 3))
    batches = (
        pipeline.dataset(dataclasses.replace(tiles, images=view), batch_size=250) for view in views
    )
    found = np.mean([network.predict(one, verbose=0) for one in batches], axis=0)
    components = PCA(min(size, *found.shape), whiten=True, svd_solver="covariance_eigh")
    found = make_pipeline(StandardScaler(), components).fit_transform(found).astype("float32")
    seconds = time.perf_counter() - begin
    if kept:
        np.savez(packed := io.BytesIO(), features=found, seconds=seconds)
        files.write(kept, packed.getbuffer())
    return found, seconds


def _predicting(model: keras.Model, train: Tiles, features: np.ndarray, seed: int) -> keras.Model:
    """Give a model a second output, which predicts features from those before its last layer."""
    finite = np.isfinite(features).all()
    if features.ndim != 2 or len(features) != len(train) or not finite:
        wanted = f"`hints` must be finite, one row per training tile, shape ({len(train)}, F)"
        received = f"shape {features.shape}{'' if finite else ' with NaN or infinity'}"
        raise ValueError(f"{wanted}. Received: {received}")
    kernel = keras.initializers.GlorotUniform(seed)
    with model.distribute_strategy.scope():
        head = layers.Dense(features.shape[1], kernel_initializer=kernel, name="hints")
        both = keras.Model(model.input, [model.output, head(model.get_layer("head-pool").output)])
    for name in ("_trained_by_run", "_began_with"):  # see `checkpoint.Run`
        setattr(both, name, getattr(model, name, ""))
    return both


def _published(
    base: str, build: Callable[..., keras.Model], side: int, weights: str | None = "imagenet"
) -> keras.Model:
    """Let Keras build a base and fetch its weights; where it cannot, say which file goes where."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # weights are of another image size
            return build(include_top=False, weights=weights, input_shape=(side, side, 3))
    except Exception as error:  # Keras raises no narrower one
        if weights is None:
            raise
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        address = re.search(r"https?://\S+\.h5", str(error))
        file = f"{address[0]} to `{folder}`" if address else f"its file in `{folder}` again"
        raise FileNotFoundError(
            f"The ImageNet weights of {base} are missing or damaged, and could not be downloaded. "
            f"Copy {file} ($KERAS_HOME/models or ~/.keras/models; it must be writable), or train "
            "without them (`weights=None`, `teacher_epochs = None` in training.ipynb). "
            f"Keras says: {error}"
        ) from error
