"""Made-up tiles: the same from the same seed, all different, and some work to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from eurosat_helpers import data
from eurosat_helpers.data import demo


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return demo.draw(20, seed=0)


def features(images: np.ndarray) -> np.ndarray:
    """Mean color, spread and roughness of each tile: a first look, far from what a network sees."""
    pixels = images.astype(np.float64)
    roughness = np.abs(np.diff(pixels, axis=1)).mean(axis=(1, 2))
    return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2)), roughness], axis=1)


def test_draw_gives_every_class_the_same_number_of_tiles(drawn):
    images, names = drawn
    assert images.shape == (200, 64, 64, 3)
    assert images.dtype == np.uint8
    expected = [f"{name}/{name}_{k}.jpg" for name in data.CLASS_NAMES for k in range(1, 21)]
    assert names.tolist() == expected


def test_no_two_tiles_are_equal(drawn):
    images, _ = drawn
    assert len({image.tobytes() for image in images}) == len(images)


def test_same_seed_draws_the_same_tiles_however_many(drawn):
    images, names = drawn
    fewer, fewer_names = demo.draw(3, seed=0)
    kept = np.isin(names, fewer_names)
    np.testing.assert_array_equal(images[kept], fewer)


def test_other_seed_draws_other_tiles(drawn):
    images, _ = drawn
    others, _ = demo.draw(20, seed=1)
    assert not (images == others).all(axis=(1, 2, 3)).any()


def test_classes_differ_but_not_by_mean_color_alone(drawn):
    labels = np.repeat(np.arange(10), 20)
    train, test = features(drawn[0]), features(demo.draw(20, seed=1)[0])
    center, scale = train.mean(axis=0), train.std(axis=0)
    train, test = (train - center) / scale, (test - center) / scale

    def accuracy(columns: slice) -> float:
        classifier = LogisticRegression(max_iter=1000).fit(train[:, columns], labels)
        return classifier.score(test[:, columns], labels)

    assert accuracy(slice(0, 3)) < 0.5
    assert accuracy(slice(None)) > 0.65
