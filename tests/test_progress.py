"""Tests of eurosat_helpers.progress. Its line in a notebook is in test_training.py."""

from types import SimpleNamespace

from eurosat_helpers import progress


def test_each_epoch_prints_a_line_outside_of_a_notebook(capsys):
    epochs = progress.Epochs(
        lambda: {"val_loss": 1.0, "val_accuracy": 0.5}, None, epochs=2, steps=3
    )
    epochs.set_model(
        SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1), get_weights=list)
    )
    assert epochs.start() == 0
    for epoch in range(2):
        epochs.on_epoch_begin(epoch)
        epochs.on_train_batch_end(0, {"loss": 1.0})
        epochs.on_epoch_end(epoch, {"loss": 1.5, "accuracy": 0.25})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].endswith("training loss 1.500, validation accuracy 50.00%]")
    assert epochs.rows[:, 0].tolist() == [1, 2]
