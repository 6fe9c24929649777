"""Tests of eurosat_helpers.board: what its event files hold."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_demo

from eurosat_helpers import data, models, pipeline, progress, training


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
