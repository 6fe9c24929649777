"""Made-up tiles: the same from the same seed, all different, and in the layout of EuroSAT."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
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


def test_write_makes_the_folders_of_eurosat(tmp_path):
    folder = demo.write(tmp_path / "new", tiles_per_class=2, seed=0)
    assert folder == tmp_path / "new"
    assert [path.name for path in folder.iterdir()] == ["2750"]
    assert sorted(path.name for path in (folder / "2750").iterdir()) == list(data.CLASS_NAMES)
    with Image.open(folder / "2750" / "River" / "River_2.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_write_never_touches_tiles_that_are_there(tmp_path):
    real = tmp_path / "2750" / "Forest" / "Forest_1.jpg"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"a real tile")
    with pytest.raises(FileExistsError, match="2750` already exists: choose an empty `folder`"):
        demo.write(tmp_path, tiles_per_class=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [real]
    assert real.read_bytes() == b"a real tile"


def test_no_tile_to_draw_is_an_error():
    with pytest.raises(ValueError, match=r"`tiles_per_class` must be at least 1. Received: 0"):
        demo.draw(0)
