"""From a model and tiles to trained weights."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping

import keras
import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_class_weight

from eurosat_helpers import board, checkpoint, devices, pipeline, precision, progress, workers
from eurosat_helpers import hints as hinting
from eurosat_helpers.data import Tiles
from eurosat_helpers.muon import Muon

WARMUP = 0.15  # share of the batches over which the learning rate rises
CROP = 48  # pixels: squares of this side cost 0.6 as much as tiles
NO_SETTINGS = ("model", "train", "validation", "log_dir", "checkpoint_dir")  # of `fit`


def compile_model(
    model: keras.Model,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    label_smoothing: float,
    muon: bool = True,
) -> None:
    """Compile for `steps` batches as `fit` does; the arguments that both have are the same."""
    # A linear rise, then a cosine to zero (SGDR, arXiv 1608.03983).
    rise = int(WARMUP * steps)
    warmup = {"warmup_target": learning_rate, "warmup_steps": rise}
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - rise, **warmup)
    optimizer = Muon(schedule, weight_decay=weight_decay, convolutions=muon)
    # Decay is for kernels, not for the scales and shifts of batch normalization.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    xla = "auto" if workers.count() == 1 else False  # it cannot sum over workers
    count = len(model.outputs)  # 2 with hints
    loss, metrics = [loss, "mean_squared_error"][:count], [["accuracy"], []][:count]
    model.compile(optimizer, loss, metrics=metrics, jit_compile=xla)


def fit(
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
    mixup: float = 0.0,
    compressed: float = 0.0,
    cropped: float = 0.0,
    hints: np.ndarray | None = None,
    muon: bool = True,
    class_weight: Mapping[int, float] | str | None = None,
    policy: str | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Train with Muon, warm-up and cosine, and leave the model at its best weights.

    The best weights are those of the epoch with the highest accuracy on `validation`, computed in
    float32 whatever `policy` is: the accuracy of the model that is saved.

    Args:
        model: A model from raw pixels to logits; it is compiled here.
        train: The training tiles, in another order each epoch.
        validation: The validation tiles.
        epochs: Passes over `train`.
        batch_size: Tiles per batch; several GPUs share it.
        learning_rate: Peak of the schedule.
        seed: Seed of the order of the tiles, of `mixup`, `compressed` and `cropped`.
        weight_decay: Share of a kernel, times the learning rate, that each step subtracts from it
            (decoupled: Loshchilov and Hutter, arXiv 1711.05101).
        label_smoothing: Share of a label that all classes get (Szegedy et al., arXiv 1512.00567).
        mixup: See `pipeline.dataset`; the training accuracy is then that on blended tiles.
        compressed: See `pipeline.dataset`.
        cropped: Share of the epochs, rounded down, that begin the run with a random square of 48x48
            pixels of each tile: cheap ones, for a network that takes images of any size.
        hints: Features of each training tile, float32 `(len(train), F)`, such as
            `hints.features` computes. The features before the last layer learn to predict
            them too (mean squared error, added to the loss); what predicts them is not kept.
        muon: Whether kernels of convolutions take steps of Muon (see `muon.Muon`); False is AdamW
            for all.
        class_weight: Label to weight in the loss, or "balanced": each class counts the same,
            whatever its number of tiles, as in scikit-learn.
        policy: Keras dtype policy to train in, `None` for `devices.precision`; the weights are
            float32, and so is the model afterwards.
        log_dir: Folder for TensorBoard: curves, and pictures of mistakes; `None` writes nothing.
        checkpoint_dir: Folder of one named run (of its own for a model loaded from a file), for its
            state before the first and after each epoch. After an interrupt, the same call (network,
            tiles, settings, devices) resumes after the last completed epoch, whatever weights
            `model` has by then, and ends as an uninterrupted run does. After a finished run it
            returns that run at once.

    Returns:
        One row per epoch: `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`,
        `learning_rate` (at its end), `seconds` (with validation).

    Raises:
        ValueError: If an argument is out of range, a checkpoint is damaged, or a new run would
            begin with a model that another run has trained.
    """
    settings = {name: value for name, value in dict(locals()).items() if name not in NO_SETTINGS}
    for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
        if not isinstance(value := settings[name], (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer from {least}. Received: {value!r}.")
    for name in ("compressed", "cropped"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"`{name}` must be in [0, 1]. Received: {settings[name]}.")
    ranges = dict.fromkeys(("learning_rate", "weight_decay", "mixup"), math.inf)
    for name, end in {**ranges, "label_smoothing": 1}.items():
        if not 0 <= settings[name] < end:
            raise ValueError(f"`{name}` must be in [0, {end}). Received: {settings[name]}.")
    if (names := validation.class_names) != train.class_names:
        raise ValueError(f"`validation` must have the classes of `train`. Received: {names}.")
    if model.output_shape[-1] != len(names):
        raise ValueError(f"`model` must have {len(names)} outputs. Received: {model.output_shape}.")
    if class_weight == "balanced":
        labels = np.unique(train.labels)
        weights = compute_class_weight("balanced", classes=labels, y=train.labels)
        class_weight = dict(zip(labels.tolist(), weights.tolist(), strict=True))
    known, given = set(range(len(names))), class_weight or {}
    if not set(given) <= known or not all(0 <= one < math.inf for one in given.values()):
        wanted = f'"balanced", or numbers from 0 for labels in {known}'
        raise ValueError(f"`class_weight` must be {wanted}. Received: {class_weight}.")
    given = model
    if hints is not None:
        settings["hints"] = hashlib.sha256(np.ascontiguousarray(hints)).hexdigest()
        model = hinting._predicting(model, train, hints, seed)
    policy = policy or devices.precision()
    run, strategy = None, model.distribute_strategy
    if policy == "mixed_float16" and workers.count() * strategy.num_replicas_in_sync > 1:
        # Keras looks for an overflow on one of them alone.
        allowed = "`policy` must be float32 or mixed_bfloat16 with several devices or workers"
        raise ValueError(f"{allowed}. Received: {policy}")
    if checkpoint_dir is not None:
        settings |= {"class_weight": class_weight and sorted(class_weight.items())}
        settings |= {"policy": policy, "devices": (strategy.num_replicas_in_sync, workers.count())}
        run = checkpoint.Run(checkpoint_dir, model, train, validation, settings)
    steps = math.ceil(len(train) / batch_size)
    with strategy.scope():
        sizes = {"smoothing": label_smoothing, "epochs": epochs, "steps": steps}
        log = progress.Epochs(model, validation, run, **sizes)
    following = precision._following(model, epochs * steps)
    computing = precision.computing_in(policy, model)
    with strategy.scope(), computing, following, log.interrupts_after_a_batch():
        compile_model(model, epochs * steps, learning_rate, weight_decay, label_smoothing, muon)
        model.optimizer.build(model.trainable_variables)
        done = log.start()
        if done == epochs:
            print(f"This run is finished. Delete `{run.file}` to train from scratch.")
        elif done:
            print(f"Resuming after epoch {done} of {epochs}.")
        shown = log_dir is not None and workers.index() == 0 and done < epochs
        boards = [board.Board(log_dir, log, validation)] if shown else []
        given._trained_by_run = model._trained_by_run = True  # see `checkpoint.Run`
        whole = int(cropped * epochs + 1e-9)  # the first epoch on whole tiles
        parts = (CROP, range(done, whole)), (None, range(max(done, whole), epochs))
        for side, part in (one for one in parts if one[1]):
            batches = pipeline.dataset(
                train,
                batch_size=batch_size,
                shuffle_seed=seed,
                epochs=part,
                mixup=mixup,
                compressed=compressed,
                side=side,
                hints=hints,
                class_weight=class_weight,
                replicas=strategy.num_replicas_in_sync,
                worker=(workers.index(), workers.count()),
            )
            model.make_train_function(force=True)  # in one for two sizes, both would be unknown
            options = {"initial_epoch": part.start, "epochs": part.stop, "steps_per_epoch": steps}
            model.fit(batches, callbacks=[log, *boards], shuffle=False, verbose=0, **options)
        model.set_weights(log.best[1:])
    history = pd.DataFrame(log.rows, columns=progress.COLUMNS).astype({"epoch": int})
    seconds, kept = history.seconds.sum(), history.loc[history.val_accuracy[::-1].idxmax()]
    print(
        f"{devices.hardware()}: {epochs} epochs in {seconds / 60:.1f} min, "
        f"{epochs * len(train) / seconds:,.0f} tiles/s; "
        f"kept epoch {kept.epoch:.0f}, validation accuracy {kept.val_accuracy:.2%}"
    )
    return history
