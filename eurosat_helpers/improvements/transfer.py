"""Transfer learning: a new head on a pretrained base, then fine-tuning of the base.

First `fit_head` on the frozen base, which is cheap; then `unfreeze` and `training.fit` at a much
lower learning rate, so that the base changes only a little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import keras
import pandas as pd
from keras import ops

from eurosat_helpers import models, pipeline, training
from eurosat_helpers.data import Tiles
from eurosat_helpers.improvements import bases, features
from eurosat_helpers.normalization import FusedBatchNormalization


def fit_head(
    model: keras.Model,
    train: Tiles,
    validation: Tiles,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    adapt: bool = True,
) -> pd.DataFrame:
    """Train the head alone, on features of the frozen base that are computed only once.

    An epoch then takes a moment, but there is no augmentation. The schedule is as in
    `training.fit`.

    Args:
        model: A model of `build_transfer` with a frozen base; it is left at its best weights.
        train: The training tiles, shuffled in each epoch.
        validation: The validation tiles, which choose the best epoch.
        epochs: Passes over `train`.
        batch_size: Tiles in a batch.
        learning_rate: Peak of the schedule.
        seed: Seed of all random generators, set first.
        weight_decay: See `training.fit`.
        label_smoothing: See `training.fit`.
        adapt: Whether batch normalization of the base first takes the statistics of (at most
            4,000 of) the training tiles instead of those of photographs (Li et al., arXiv
            1603.04779).

    Returns:
        One row per epoch: `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy` and `seconds`,
        in the first with the computation of the features.

    Raises:
        ValueError: If the base is not frozen, or an argument is out of range.
    """
    given = epochs, batch_size, learning_rate, label_smoothing
    if min(epochs, batch_size) < 1 or learning_rate < 0 or not 0 <= label_smoothing < 1:
        ranges = "`epochs`, `batch_size` >= 1, `learning_rate` >= 0 and 0 <= `label_smoothing` < 1"
        raise ValueError(f"Arguments must be in range: {ranges}. Received: {given}.")
    if (names := validation.class_names) != train.class_names:
        raise ValueError(f"`validation` must have the classes of `train`. Received: {names}.")
    if model.get_layer("base").trainable_weights:
        raise ValueError(
            "`model` must have a frozen base, but the base of this one is trainable: train it with "
            "`training.fit`, or build it with weights from ImageNet."
        )
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    if adapt:
        _adapt(model, train, seed=seed)
    pool = model.get_layer("head-pool")
    trained = model.layers[model.layers.index(pool) + 1 :]
    arrays = [
        (features.extract(model, tiles), ops.one_hot(tiles.labels, len(tiles.class_names)))
        for tiles in (train, validation)
    ]
    steps = epochs * -(-len(train) // batch_size)
    with model.distribute_strategy.scope():
        # Copies of the layers: one that is called in two models has no single output any more.
        copies = [type(layer).from_config(layer.get_config()) for layer in trained]
        head = keras.Sequential([keras.Input(pool.output.shape[1:]), *copies])
        head.set_weights([array for layer in trained for array in layer.get_weights()])
        training.compile_model(head, steps, learning_rate, weight_decay, label_smoothing)
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=epochs, restore_best_weights=True
    )
    prepared = time.perf_counter()
    history = head.fit(
        *arrays[0],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=arrays[1],
        callbacks=[best],
        verbose=0,
    ).history
    for layer, copy in zip(trained, copies, strict=True):
        layer.set_weights(copy.get_weights())
    settings = (*given, seed, weight_decay, adapt, len(train))
    model._began_with = f"{getattr(model, '_began_with', '')}, head {settings}"
    table = pd.DataFrame({"epoch": range(1, epochs + 1), **history})
    table["seconds"] = (time.perf_counter() - prepared) / epochs
    table.loc[0, "seconds"] += prepared - begin
    return table


def unfreeze(model: keras.Model, *, fixed_statistics: bool = True) -> None:
    """Make the base trainable too.

    Afterwards call `training.fit` at a very low learning rate: it compiles the model again, without
    which nothing would change.

    Args:
        model: A model of `build_transfer` with weights from ImageNet.
        fixed_statistics: Whether batch normalization keeps the statistics that it has, which a few
            tiles could not replace; its scales and shifts are trained. With many tiles `False` is
            better.
    """
    base = model.get_layer("base")
    base.trainable = True
    for layer in models.sublayers(base):
        if isinstance(layer, FusedBatchNormalization):
            layer.fixed_statistics = fixed_statistics


def compare_bases(
    names: Sequence[str],
    train: Tiles,
    validation: Tiles,
    *,
    seed: int,
    weights: str | None = "imagenet",
    **settings: object,
) -> tuple[pd.DataFrame, keras.Model, pd.DataFrame]:
    """Train a model on each base and choose the best one on validation.

    With several devices call it within `strategy.scope()`.

    Args:
        names: Names in `bases.BASES`.
        train: The training tiles.
        validation: The validation tiles, which choose the winner; the test tiles are not used.
        seed: Seed of the random weights and of each training, the same for every base.
        weights: `"imagenet"` trains the head on the frozen base by `fit_head`, `None` the whole
            model from scratch by `training.fit`.
        **settings: Further keywords of that function, the same for every base.

    Returns:
        The table, best first: `validation accuracy`, `parameters` and `seconds` of the training,
        indexed by `base`; the trained model of the winner, which has the name of its base; and the
        history of its training. Of equally accurate ones the smaller wins.

    Raises:
        ValueError: If `names` is empty or holds an unknown name.
        FileNotFoundError: See `build_transfer`.
    """
    if not names:
        raise ValueError(f"`names` must be one or more of {', '.join(bases.BASES)}. Received: []")
    fit = training.fit if weights is None else fit_head
    built = [  # all of them first: a missing file shows now, and not after hours
        bases.build_transfer(name, num_classes=len(train.class_names), weights=weights, seed=seed)
        for name in names
    ]
    logs = [fit(model, train, validation, seed=seed, **settings) for model in built]
    table = pd.DataFrame(
        {
            "validation accuracy": [log.val_accuracy.max() for log in logs],
            "parameters": [model.count_params() for model in built],
            "seconds": [log.seconds.sum() for log in logs],
        },
        index=pd.Index(names, name="base"),
    ).sort_values(["validation accuracy", "parameters"], ascending=[False, True])
    best = list(names).index(table.index[0])
    return table, built[best], logs[best]


def _adapt(model: keras.Model, tiles: Tiles, *, seed: int, batch_size: int = 256) -> None:
    """Set the statistics of batch normalization in the base to their means over batches."""
    base, normalization = model.get_layer("base"), model.get_layer("normalization")
    inside, names = models.sublayers(base), ("momentum", "rate")  # the latter of dropout: off
    settings = [(layer, name) for layer in inside for name in names if hasattr(layer, name)]
    before = [getattr(*setting) for setting in settings]
    some = tiles[:: -(-len(tiles) // 4000)]  # of each class: a mean needs no more
    base.trainable, seen = True, 0  # a frozen layer would keep its statistics
    try:
        for images, _ in pipeline.dataset(some, batch_size=batch_size, shuffle_seed=seed):
            now = {"momentum": seen / (seen + len(images)), "rate": 0}  # the mean of all so far
            for layer, name in settings:
                setattr(layer, name, now[name])
            base(ops.image.resize(normalization(images), base.input_shape[1:3]), training=True)
            seen += len(images)
    finally:  # interrupted, the cell can run again
        for setting, value in zip(settings, before, strict=True):
            setattr(*setting, value)
        base.trainable = False
