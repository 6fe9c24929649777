"""Tests of eurosat_helpers.training: the real `fit` on a shrunken setting."""

import dataclasses
import itertools
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from jupyter_client.manager import start_new_kernel

from eurosat_helpers import (
    data,
    devices,
    models,
    normalization,
    pipeline,
    precision,
    progress,
    training,
)

SMALL = {"stem_width": 4, "widths": (8,), "blocks": (1,)}
STEPS = 3  # batches per epoch of `fit_small`


@pytest.fixture(scope="module")
def parts(demo_tiles):
    """Ninety training tiles and forty to validate."""
    return demo_tiles[::4][:90], demo_tiles[1::10]


def build_small(parts, *, seed=0, **options):
    mean, variance = pipeline.channel_statistics(parts[0])
    options = {"mean": mean, "variance": variance, **SMALL, **options}
    return models.build_cnn(seed=seed, **options)


def fit_small(model, parts, **options):
    defaults = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "seed": 0}
    return training.fit(model, *parts, **{**defaults, **options})


def test_fit_learns_the_demo_tiles_and_leaves_the_best_epoch(demo_tiles, capsys):
    parts = data.split(demo_tiles)[:2]
    model = build_small(parts, widths=(16, 32), blocks=(1, 1), l2=1e-3)
    history = fit_small(
        model, parts, epochs=6, learning_rate=1e-2, label_smoothing=0.1, weight_decay=0.01
    )
    columns = "epoch loss accuracy val_loss val_accuracy learning_rate seconds"
    assert list(history.columns) == columns.split()
    assert list(history.epoch) == list(range(1, 7))
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert history.val_accuracy.max() > 0.3
    # Warm-up over the first 15 % of the batches, then a cosine to zero.
    assert history.learning_rate.is_monotonic_decreasing
    assert history.learning_rate.iloc[-1] == pytest.approx(0, abs=1e-7)
    kept = history.loc[history.val_accuracy[::-1].idxmax()]  # of equal ones the last
    loss, accuracy = model.evaluate(pipeline.dataset(parts[1], batch_size=64), verbose=0)
    assert loss == pytest.approx(kept.val_loss, rel=1e-5)
    assert accuracy == pytest.approx(kept.val_accuracy)
    printed = capsys.readouterr().out
    assert f"{devices.hardware()}: 6 epochs in" in printed
    assert "tiles/s" in printed


# --- interrupt and run again ---


def interrupted(monkeypatch, batch, model, parts, **options):
    """Interrupt `fit` in a batch, counted over all its epochs."""
    batches = itertools.count(1)

    def stop(*_, **__):
        if next(batches) == batch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(progress.Epochs, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_small(model, parts, **options)
    assert {layer.compute_dtype for layer in (model, *model.layers)} == {"float32"}
    assert np.isfinite(model(parts[1].images.astype("float32"))).all()
    with pytest.raises(ValueError, match="incompatible"):  # squares are for the training alone
        model(np.zeros((1, 48, 48, 3), "float32"))


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_interrupted_cell_runs_again_and_ends_as_the_uninterrupted_run(
    parts, tmp_path, monkeypatch, capsys, policy
):
    # Without a seed: each model has other weights, and the run those of the first one.
    first, restarted, unbroken = (build_small(parts, seed=None) for _ in range(3))
    for variable, value in zip(unbroken.variables, first.variables, strict=True):
        variable.assign(value)
    options = {"mixup": 0.4, "weight_decay": 0.01, "policy": policy, "cropped": 0.7}
    expected = fit_small(unbroken, parts, **options)
    options["checkpoint_dir"] = tmp_path / "my_model"

    interrupted(monkeypatch, STEPS - 1, first, parts, **options)  # in the first epoch
    interrupted(monkeypatch, STEPS + 2, restarted, parts, **options)  # the kernel restarted
    assert "Resuming" not in capsys.readouterr().out
    history = fit_small(first, parts, **options)  # the same cell again, with half-trained weights
    assert "Resuming after epoch 1 of 3." in capsys.readouterr().out

    def assert_same(model, history):
        left, right = (table.drop(columns="seconds") for table in (history, expected))
        pd.testing.assert_frame_equal(left, right, check_exact=True)
        for weight, same in zip(model.get_weights(), unbroken.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, same)

    assert_same(first, history)
    (file,) = (tmp_path / "my_model").glob("*.npz")
    for model in (first, build_small(parts, seed=None)):  # the run is finished
        assert_same(model, fit_small(model, parts, **options))
        assert f"Delete `{file}` to train from scratch." in capsys.readouterr().out

    # A model that was trained cannot begin another run, nor the same run from scratch.
    with pytest.raises(ValueError, match="build the model again first"):
        fit_small(first, parts, **{**options, "epochs": 2})
    file.unlink()
    with pytest.raises(ValueError, match="build the model again first"):
        fit_small(first, parts, **options)
    assert [path.name for path in file.parent.iterdir()] == [".lock"]


CELLS = """
from pathlib import Path
from eurosat_helpers import data, models, pipeline, training
tiles = data.load({folder!r})
train, validation, _ = data.split(tiles, validation_fraction=0.2)
mean, variance = pipeline.channel_statistics(train)
model = models.build_cnn(
    mean=mean, variance=variance, stem_width=4, widths=(8,), blocks=(1,), seed=1
)
=====
history = training.fit(
    model, train, validation, epochs=12, batch_size=8, learning_rate=3e-3, seed=1, mixup=0.2,
    checkpoint_dir={checkpoints!r},
)
=====
print(history.drop(columns="seconds").to_numpy("float64").tobytes().hex())
"""


def test_cell_of_a_notebook_that_is_interrupted_resumes(demo_folder, tmp_path):
    folder, kept = str(demo_folder), tmp_path / "my_model"
    code = CELLS.format(folder=folder, checkpoints=str(kept))
    build, fit, show = code.split("=====")
    environment = {name: value for name, value in os.environ.items() if name[:3] != "TF_"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    manager, client = start_new_kernel(env=environment, stderr=subprocess.DEVNULL)

    def execute(code):
        """Run a cell, and return how it ended and what it put out."""
        outputs = []
        reply = client.execute_interactive(code, output_hook=outputs.append, timeout=120)
        return reply["content"], [one for one in outputs if one["msg_type"] != "status"]

    def text(outputs, name="stdout"):
        streams = [one["content"] for one in outputs if one["msg_type"] == "stream"]
        return "".join(stream["text"] for stream in streams if stream["name"] == name)

    def epochs_done():
        (file,) = kept.glob("*.npz")
        with np.load(file) as state:
            return len(state["rows"])

    def interrupt_after(epochs):
        request = client.execute(fit, stop_on_error=False)
        while not list(kept.glob("*.npz")) or epochs_done() < epochs:
            assert manager.is_alive()
            time.sleep(0.01)
        manager.interrupt_kernel()
        while True:
            reply = client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]

    try:
        reply, outputs = execute(build)
        assert reply["status"] == "ok", reply
        assert text(outputs, "stderr") == ""
        reply = interrupt_after(epochs=1)
        assert reply["ename"] == "KeyboardInterrupt"
        assert 1 <= epochs_done() < 12
        reply, outputs = execute(fit)  # the same cell, with the half-trained model
        assert reply["status"] == "ok", reply
        assert "Resuming after epoch" in text(outputs)
        assert text(outputs, "stderr") == ""
        shown = [one for one in outputs if one["msg_type"] == "display_data"]
        assert len(shown) == 1  # a line that was rewritten in place
        _, outputs = execute(show)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    names = {}
    exec(build + fit.replace(str(kept), str(tmp_path / "other")), names)
    expected = names["history"].drop(columns="seconds").to_numpy("float64")
    resumed = np.frombuffer(bytes.fromhex(text(outputs))).reshape(expected.shape)
    np.testing.assert_array_equal(resumed, expected)


# --- number formats ---


def predicted(model, images):
    return tf.function(model)(images.astype("float32"), training=False).numpy().argmax(axis=1)


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_recorded_accuracy_is_that_of_the_saved_model(demo_tiles, policy):
    # A network that `fit` leaves as it is: the learning rate is zero and no statistic moves.
    train = demo_tiles[::8]
    model = build_small((train,), seed=1)
    for layer in model.layers:
        if isinstance(layer, normalization.FusedBatchNormalization):
            layer.momentum = 1.0
    # On the way from one tile to another the class changes, elsewhere in half precision.
    classes = predicted(model, demo_tiles.images)
    first, others = demo_tiles.images[0].astype(float), np.flatnonzero(classes != classes[0])[:5]
    shares = np.linspace(0, 1, 200).reshape(-1, 1, 1, 1)
    ways = [first + shares * (demo_tiles.images[other] - first) for other in others]
    images = np.rint(np.concatenate(ways)).astype(np.uint8)
    validation = dataclasses.replace(demo_tiles, images=images, labels=predicted(model, images))
    with precision.computing_in("mixed_bfloat16", model):
        assert 0 < (predicted(model, images) != validation.labels).sum() < 100
    history = fit_small(
        model, (train, validation), epochs=1, learning_rate=0.0, batch_size=50, policy=policy
    )
    assert history.val_accuracy[0] == 1
    assert (predicted(model, images) == validation.labels).all()
    assert {weight.dtype.name for weight in model.get_weights()} == {"float32"}


# --- class weights, arguments ---


def test_classes_are_weighted_by_the_blended_labels(demo_tiles):
    train = demo_tiles[np.r_[0:40, 40:50, 80:84]]  # three classes, of 40, 10 and 4 tiles
    weights = {label: 54 / 3 / count for label, count in enumerate((40, 10, 4))}
    # With a learning rate of zero the loss of the epoch can be computed afterwards.
    options = {"mixup": 1.0, "learning_rate": 0.0, "epochs": 1, "policy": "float32"}
    model = build_small((train,), l2=0, dropout=0)
    before = [variable.numpy() for variable in model.variables]
    loss = fit_small(model, (train, train), class_weight="balanced", **options).loss[0]
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    total = 0
    for images, labels in pipeline.dataset(train, batch_size=32, shuffle_seed=0, mixup=1.0):
        losses = keras.losses.categorical_crossentropy(
            labels, model(images, training=True), from_logits=True
        )
        share = labels.numpy()[:, :3] @ list(weights.values())
        total += (losses.numpy() * share).sum()
    assert loss == pytest.approx(total / len(train), rel=1e-4)


@pytest.fixture(scope="module")
def untouched(parts):
    return build_small(parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer from 1. Received: 0"),
        ({"epochs": 1.5}, "`epochs` must be an integer from 1. Received: 1.5"),
        ({"batch_size": 0}, "`batch_size` must be an integer from 1. Received: 0"),
        ({"learning_rate": -1.0}, r"`learning_rate` must be in \[0, inf\). Received: -1.0"),
        ({"mixup": -1.0}, r"`mixup` must be in \[0, inf\). Received: -1.0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be in \[0, 1\). Received: 1.0"),
        ({"compressed": 2.0}, r"`compressed` must be in \[0, 1\]. Received: 2.0"),
        ({"cropped": 1.5}, r"`cropped` must be in \[0, 1\]. Received: 1.5"),
        ({"seed": None}, "`seed` must be an integer from 0. Received: None"),
        ({"seed": -1}, "`seed` must be an integer from 0. Received: -1"),
        ({"class_weight": "balance"}, '`class_weight` must be "balanced", or numbers from 0 for'),
        (
            {"class_weight": {"Forest": 2.0}},
            r"`class_weight` must be .* \{0, 1, .*: \{'Forest': 2.0\}",
        ),
        ({"class_weight": {3: np.nan}}, r"`class_weight` must be .*: \{3: nan\}"),
        ({"class_weight": {3: np.inf}}, r"`class_weight` must be .*: \{3: inf\}"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(parts, untouched, tmp_path, options, message):
    model, folder = untouched, tmp_path / "run"
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit_small(model, parts, checkpoint_dir=folder, **options)
    assert not folder.exists()
    assert all(map(np.array_equal, before, model.get_weights()))


def test_model_with_other_outputs_is_refused(parts):
    match = r"`model` must have 10 outputs. Received: \(None, 4\)"
    with pytest.raises(ValueError, match=match):
        fit_small(build_small(parts, num_classes=4), parts)


def test_validation_tiles_of_other_classes_are_refused(parts):
    train, validation = parts
    turned = dataclasses.replace(
        validation,
        labels=len(train.class_names) - 1 - validation.labels,
        class_names=validation.class_names[::-1],
    )
    with pytest.raises(ValueError, match=r"must have the classes of `train`.*SeaLake.*AnnualCrop"):
        fit_small(build_small(parts), (train, turned))


def test_losses_of_outputs_are_no_part_of_the_validation_loss(parts):
    images = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(4, 3, activity_regularizer="l2", kernel_regularizer="l2")(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(10)(x / 255))
    # In half precision Keras cannot add such losses to the others.
    history = fit_small(model, parts, epochs=2, policy="float32")
    assert history.val_loss.gt(0).all()


def test_model_of_a_refused_call_can_be_trained_on_files_with_any_name(parts, tmp_path):
    model, folder = build_small(parts), tmp_path / "run"
    train, validation = parts
    odd = np.array([f"{name}\udcff" for name in train.names])  # bytes that are no text
    parts = dataclasses.replace(train, names=odd), validation
    with pytest.raises(ValueError, match="`compressed` must be"):
        fit_small(model, parts, checkpoint_dir=folder, compressed=2.0)
    weights = dict.fromkeys(np.arange(10), np.float32(1))  # numbers of NumPy are numbers
    fit_small(model, parts, checkpoint_dir=folder, epochs=1, class_weight=weights)


def test_first_epochs_see_squares_of_the_tiles(parts, monkeypatch):
    seen, real = [], pipeline.dataset

    def dataset(tiles, **options):
        batches = real(tiles, **options)
        if tiles is parts[0]:
            seen.append((options["epochs"], batches.element_spec[0].shape[1:]))
        return batches

    monkeypatch.setattr(pipeline, "dataset", dataset)
    history = fit_small(build_small(parts, changed=0.5), parts, cropped=0.5, compressed=0.5)
    assert seen == [(range(1), (48, 48, 3)), (range(1, 3), (64, 64, 3))]
    assert list(history.epoch) == [1, 2, 3]
    assert history.learning_rate.iloc[-1] == pytest.approx(0, abs=1e-7)  # one schedule for both


def test_networks_inside_networks_learn_on_squares(parts):
    inputs = keras.Input((64, 64, 3))
    nested = keras.Model(inputs, build_small(parts)(inputs) * 2.0)  # the last one is no layer
    history = fit_small(nested, parts, cropped=0.5)
    assert np.isfinite(history.loss).all()
    with pytest.raises(ValueError, match="expected shape"):
        nested(np.zeros((1, 48, 48, 3)))
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D()]
    fit_small(keras.Sequential([inputs, *layers, keras.layers.Dense(10)]), parts, epochs=1)


def test_a_saved_model_is_trained_further(parts, tmp_path):
    first = build_small(parts)
    first.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    options = {"epochs": 1, "checkpoint_dir": tmp_path / "run"}
    fit_small(model, parts, learning_rate=1e-9, **options)
    for one, other in zip(first.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(ValueError, match="`model` was trained by another run"):
        fit_small(model, parts, **options)


def test_of_epochs_that_are_as_good_the_last_is_kept(parts):
    one = parts[1][:1]  # right or wrong, so epochs are equal
    model = build_small(parts)
    history = fit_small(model, (parts[0], one), epochs=6, learning_rate=1e-2)
    best = history[history.val_accuracy == history.val_accuracy.max()]
    assert len(best) > 1
    loss, _ = model.evaluate(pipeline.dataset(one, batch_size=1), verbose=0)
    assert loss == pytest.approx(best.val_loss.iloc[-1], rel=1e-5)
    assert loss != pytest.approx(best.val_loss.iloc[0], rel=1e-3)


def test_statistics_follow_in_a_training_of_few_batches_too(parts):
    model = build_small(parts)
    parts = parts[0], parts[1][:1]  # always as good, so the last epoch is kept
    fit_small(model, parts, epochs=20, batch_size=len(parts[0]), learning_rate=1e-5)
    before = keras.Model(model.input, model.get_layer("stem-convolution").output)
    values = before.predict(parts[0].images, verbose=0)
    layer = model.get_layer("stem-normalization")
    np.testing.assert_allclose(layer.moving_mean, values.mean(axis=(0, 1, 2)), atol=0.05)
    np.testing.assert_allclose(layer.moving_variance, values.var(axis=(0, 1, 2)), rtol=0.05)
    assert layer.momentum == 0.98


def test_model_that_was_trained_outside_of_a_run_begins_none(parts, tmp_path):
    model = build_small(parts)
    fit_small(model, parts, epochs=1)
    with pytest.raises(ValueError, match="`model` was trained by another run"):
        fit_small(model, parts, epochs=1, checkpoint_dir=tmp_path / "run")


# --- several devices ---

MIRRORED = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
import numpy as np
from eurosat_helpers import data, devices, models, pipeline, training

tiles = data.load(sys.argv[1])
train, validation = tiles[::6][:9], tiles[::5][:11]  # 9 in batches of 8: the last one has 1
mean, variance = pipeline.channel_statistics(train)
count = int(sys.argv[2])
devices.set_up(seed=0)
strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
assert strategy.num_replicas_in_sync == count
with strategy.scope():
    model = models.build_cnn(
        mean=mean, variance=variance, stem_width=4, widths=(8,), blocks=(1,), seed=0
    )
fit = lambda: training.fit(
    model, train, validation, epochs=4, batch_size=8, learning_rate=3e-3, seed=0,
    cropped=0.5, checkpoint_dir=sys.argv[3],
    hints=np.random.default_rng(0).normal(size=(9, 3)).astype("float32"),
)
try:
    training.fit(
        model, train, validation, epochs=4, batch_size=8, learning_rate=3e-3, seed=0,
        policy="mixed_float16",
    )
except ValueError as error:
    assert "`policy` must be float32" in str(error)
else:
    raise AssertionError("float16 is not for several devices")
history = fit()
assert np.isfinite(history).all(axis=None), history
assert all(np.isfinite(weight).all() for weight in model.get_weights())
assert history.loss.iloc[-1] < history.loss.iloc[0]
logits = model.predict(pipeline.dataset(validation, batch_size=5), verbose=0)
assert (logits.argmax(axis=1) == validation.labels).mean() == history.val_accuracy.max()
assert fit().equals(history)
"""


@pytest.mark.slow
def test_devices_share_each_batch_whatever_is_left_over(demo_folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # The kernels of oneDNN mix up the shapes of two layers on several logical CPU devices.
    environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIRRORED, str(demo_folder), count, str(tmp_path / count)],
            env=environment,
            **streams,
        )
        for count in ("2", "4")
    ]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "This run is finished." in output
