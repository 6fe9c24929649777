"""Tests of eurosat_helpers.progress. Its line in a notebook is in test_training.py."""

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_demo

from eurosat_helpers import data, models, pipeline, progress, training


def test_each_epoch_prints_a_line_outside_of_a_notebook(capsys, demo_tiles):
    first = keras.initializers.Constant([2.0] + [0.0] * 9)  # answers with the first class
    images = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images) * 0
    model = keras.Model(images, keras.layers.Dense(10, bias_initializer=first)(pooled))
    model.compile("sgd", "categorical_crossentropy")
    parts = demo_tiles[[0, 40, 41, 42]]  # one of the first class, three of the second
    epochs = progress.Epochs(model, parts, None, smoothing=0.0, epochs=2, steps=3)
    epochs.set_model(model)
    assert epochs.start() == 0
    for epoch in range(2):
        epochs.on_epoch_begin(epoch)
        epochs.on_train_batch_end(0, {"loss": 1.0})
        epochs.on_epoch_end(epoch, {"loss": 1.5, "accuracy": 0.25})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].endswith("training loss 1.500, validation accuracy 25.00%]")
    assert epochs.rows[:, 0].tolist() == [1, 2]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A training of six epochs, interrupted after the first two, and what its event files hold."""
    folder = tmp_path_factory.mktemp("logged")
    parts = data.split(data.load(write_demo(folder, 12)), seed=0, test_fraction=0.2)
    mean, variance = pipeline.channel_statistics(parts[0])
    options = {"batch_size": 32, "learning_rate": 1e-3, "seed": 0, "log_dir": folder / "logs"}
    options["checkpoint_dir"] = folder / "run"

    def fit():
        model = models.build_cnn(
            mean=mean, variance=variance, stem_width=4, widths=(4,), blocks=(1,), seed=0
        )
        return training.fit(model, *parts[:2], epochs=6, **options)

    with pytest.MonkeyPatch.context() as patch:
        write = progress.checkpoint.Run.write

        def interrupted(run, *, rows, best):
            write(run, rows=rows, best=best)
            if len(rows) == 2:
                raise KeyboardInterrupt

        patch.setattr(progress.checkpoint.Run, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit()
    history, found = fit(), {}
    for file in (folder / "logs").rglob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault((file.parent.name, value.tag), {})[event.step] = value.tensor
    return history, found


@pytest.mark.parametrize(
    ("part", "tag", "column"),
    [
        ("train", "epoch_loss", "loss"),
        ("train", "epoch_accuracy", "accuracy"),
        ("train", "epoch_learning_rate", "learning_rate"),
        ("validation", "epoch_loss", "val_loss"),
        ("validation", "epoch_accuracy", "val_accuracy"),
    ],
)
def test_tensorboard_has_the_curves_after_an_interrupt_too(logged, part, tag, column):
    history, found = logged
    curve = {step: float(tf.make_ndarray(value)) for step, value in found[part, tag].items()}
    assert sorted(curve) == [0, 2, 3, 4, 5]  # the interrupt came before epoch 2 was logged
    np.testing.assert_allclose(list(dict(sorted(curve.items())).values()), history[column].drop(1))


def test_tensorboard_has_pictures_of_mistakes_at_every_fifth_epoch_and_the_last(logged):
    _, found = logged
    pictures = found["validation", "mistakes"]
    assert sorted(pictures) == [4, 5]
    width, height, encoded = tf.make_ndarray(pictures[5])
    image = tf.io.decode_png(encoded)
    assert image.shape[:2] == (int(height), int(width))
    assert int(width) == 1000


def test_interrupt_waits_for_the_end_of_the_batch_and_a_second_one_does_not(demo_tiles):
    images = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Dense(10)(pooled))
    epochs = progress.Epochs(model, demo_tiles[:4], None, smoothing=0.0, epochs=1, steps=3)
    before, reached = signal.getsignal(signal.SIGINT), []

    def train(interrupts, batches):
        with epochs.interrupts_after_a_batch():
            for _ in range(interrupts):
                signal.raise_signal(signal.SIGINT)
            reached.append("the rest of the batch")
            for _ in range(batches):
                epochs.on_train_batch_end(0, {"loss": 1.0})
                reached.append("the next batch")

    for interrupts, batches in ((1, 1), (2, 1), (1, 0)):
        with pytest.raises(KeyboardInterrupt):
            train(interrupts, batches)
    assert reached == ["the rest of the batch"] * 2  # of the first and the last
    train(0, 1)
    assert reached[-1] == "the next batch"
    assert signal.getsignal(signal.SIGINT) == before
