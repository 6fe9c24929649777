"""Tests of eurosat_helpers.training: the real `fit` on a shrunken setting."""

import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from eurosat_helpers import checkpoint, data, models, pipeline, training

SMALL = {"stem_width": 8, "widths": (16, 32), "blocks": (1, 1)}


def train_small(tiles, *, seed=0, **options):
    training.set_up_devices(seed=seed)
    train, validation, _ = data.split(tiles)
    mean, variance = pipeline.channel_statistics(train)
    model = models.build_cnn(mean=mean, variance=variance, **SMALL)
    history = training.fit(
        model,
        train,
        validation,
        **{"epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "seed": seed, **options},
    )
    return model, history, validation


def test_fit_learns_the_demo_tiles_and_keeps_the_best_epoch(demo_tiles, capsys):
    model, history, validation = train_small(
        demo_tiles, epochs=8, label_smoothing=0.1, weight_decay=0.01
    )
    assert list(history.columns) == [
        "epoch",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
    ]
    assert list(history.epoch) == list(range(1, 9))
    assert history.val_accuracy.max() > 0.5
    logits = model.predict(pipeline.dataset(validation, batch_size=64), verbose=0)
    accuracy = (logits.argmax(axis=1) == validation.labels).mean()
    assert accuracy == pytest.approx(history.val_accuracy.max())
    printed = capsys.readouterr().out
    assert "Training on CPU" in printed
    assert "8 epochs in" in printed
    assert "tiles/s" in printed


def test_same_seed_gives_the_same_history_and_another_seed_another(demo_tiles):
    one, same, other = (
        train_small(demo_tiles[::2], seed=seed)[1].drop(columns="seconds") for seed in (1, 1, 2)
    )
    assert one.equals(same)
    assert not one.equals(other)


def test_callbacks_are_called_along_with_those_of_fit(demo_tiles):
    ended = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: ended.append(logs))
    _, history, _ = train_small(demo_tiles[::4], callbacks=[callback])
    assert [logs["val_accuracy"] for logs in ended] == list(history.val_accuracy)


def test_interrupted_training_goes_on_and_a_finished_one_is_at_hand(
    demo_tiles, tmp_path, monkeypatch, capsys
):
    tiles, options = demo_tiles[::4], {"epochs": 2, "mixup": 0.4, "weight_decay": 0.01}
    unbroken, expected, _ = train_small(tiles, **options)
    options |= {"checkpoint_dir": tmp_path}
    write, calls = checkpoint.write, []

    def stop(file, **groups):
        if calls:
            raise KeyboardInterrupt
        write(file, **groups)
        calls.append(file)

    monkeypatch.setattr(checkpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        train_small(tiles, **options)
    assert [file.name for file in tmp_path.iterdir()] == [calls[0].name]
    monkeypatch.undo()
    train_small(tiles, **{**options, "mixup": 0.2})  # never takes up a foreign one
    assert "Going on" not in capsys.readouterr().out
    model, history, _ = train_small(tiles, **options)
    assert "Going on after epoch 1 of 2" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))
    again, same_history, _ = train_small(tiles, **options)
    assert f"Finished before: remove {calls[0]} to train anew" in capsys.readouterr().out
    pd.testing.assert_frame_equal(same_history, history)
    for other in (model, again):
        for weight, same in zip(other.get_weights(), unbroken.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, same)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_checkpoint_is_named_and_kept(demo_tiles, tmp_path, monkeypatch):
    tiles = demo_tiles[::4]
    file = tmp_path / "state.npz"
    monkeypatch.setattr(checkpoint, "find", lambda *_: file)
    for content in (b"", b"state"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"state.npz` is damaged: .* begins anew"):
            train_small(tiles, checkpoint_dir=tmp_path)
        assert file.read_bytes() == content


def test_callbacks_and_checkpoints_exclude_each_other(demo_tiles, tmp_path):
    with pytest.raises(ValueError, match="`callbacks` and `checkpoint_dir` exclude each other"):
        train_small(demo_tiles, callbacks=[keras.callbacks.Callback()], checkpoint_dir=tmp_path)


def test_class_weights_change_the_training(demo_tiles):
    weights = dict.fromkeys(range(10), 1.0)
    plain = train_small(demo_tiles[::2], epochs=1, class_weight=weights)[1]
    weighted = train_small(demo_tiles[::2], epochs=1, class_weight={**weights, 0: 50.0})[1]
    assert weighted.loss[0] > 1.5 * plain.loss[0]


def test_class_weights_are_balanced():
    weights = training.class_weights(np.repeat([0, 1, 2], [10, 20, 30]))
    assert weights == pytest.approx({0: 2.0, 1: 1.0, 2: 2 / 3})


def test_learning_rate_warms_up_and_falls_to_zero_along_a_cosine():
    schedule = training.warmup_cosine(0.4, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-7)


def test_learning_rate_may_start_at_its_peak():
    schedule = training.warmup_cosine(0.4, warmup_steps=0, total_steps=100)
    assert [float(schedule(step)) for step in (0, 100)] == pytest.approx([0.4, 0], abs=1e-7)


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_bad_warmup_is_named(warmup_steps):
    with pytest.raises(ValueError, match=f"Received: warmup_steps={warmup_steps}, total_steps=10"):
        training.warmup_cosine(1.0, warmup_steps=warmup_steps, total_steps=10)


@pytest.mark.parametrize("epochs", [0, -2, 1.5])
def test_bad_epochs_are_named(demo_tiles, epochs):
    with pytest.raises(
        ValueError, match=f"`epochs` must be a positive integer. Received: {epochs}"
    ):
        train_small(demo_tiles, epochs=epochs)


def test_devices_are_named_with_their_precision(capsys):
    strategy = training.set_up_devices(seed=0)
    assert strategy.num_replicas_in_sync == 1
    named = training.precision().replace("_", " ")
    assert named in {"float32", "mixed bfloat16", "mixed float16"}
    assert capsys.readouterr().out == f"Training on {training.hardware()}, {named}\n"


def test_half_precision_is_for_the_inner_layers_and_only_for_a_while():
    model = models.build_cnn(mean=[90] * 3, variance=[2000] * 3, **SMALL)
    names = "normalization", "stem-convolution", "stem-normalization", "stem-relu", "head-logits"
    layers = [model.get_layer(name) for name in names]
    with training._computing_in("mixed_float16", model):
        assert [layer.compute_dtype for layer in layers] == [
            "float32",
            "float16",
            "float32",
            "float16",
            "float32",
        ]
        assert model.dtype_policy.name == "mixed_float16"  # from it Keras knows to scale the loss
    assert {layer.compute_dtype for layer in (model, *model.layers)} == {"float32"}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_and_leaves_a_model_of_full_precision(demo_tiles, policy):
    model, history, validation = train_small(demo_tiles[::2], policy=policy)
    assert history.loss[1] < history.loss[0]
    assert history.learning_rate[1] < history.learning_rate[0]
    images = validation.images.astype("float32")
    logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(logits, model(images), atol=1e-4)
    weights = model.get_weights()
    assert {weight.dtype.name for weight in weights} == {"float32"}, "weights in half precision"


MIRRORED = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from eurosat_helpers import data, models, pipeline, training

strategy = training.set_up_devices(seed=0, devices=["CPU:0", "CPU:1"])
assert isinstance(strategy, tf.distribute.MirroredStrategy), strategy
assert strategy.num_replicas_in_sync == 2
train, validation, _ = data.split(data.load(sys.argv[1]), validation_fraction=0.2)
mean, variance = pipeline.channel_statistics(train)
with strategy.scope():
    model = models.build_cnn(
        mean=mean, variance=variance, stem_width=8, widths=(16,), blocks=(1,), dropout=0.1
    )
history = training.fit(
    model, train, validation, epochs=4, batch_size=8, learning_rate=3e-3, seed=0
)
print("losses", history.loss.iloc[0], history.loss.iloc[-1])
"""


def test_two_devices_share_each_batch(demo_folder):
    run = subprocess.run(
        [sys.executable, "-c", MIRRORED, str(demo_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    first, last = map(float, run.stdout.splitlines()[-1].split()[1:])
    assert last < first
