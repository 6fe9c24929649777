"""Tests of eurosat_helpers.progress. Its line in a notebook is in test_training.py."""

import signal

import keras
import pytest

from eurosat_helpers import progress


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
