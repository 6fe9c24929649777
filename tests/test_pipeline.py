"""Tests of eurosat_helpers.pipeline."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from eurosat_helpers import pipeline


def batches(tiles, **options):
    return [(x.numpy(), y.numpy()) for x, y in pipeline.dataset(tiles, **options)]


def test_unshuffled_batches_hold_every_tile_in_order_and_drop_none(demo_tiles):
    tiles = demo_tiles[:50]
    images, labels = zip(*batches(tiles, batch_size=16), strict=True)
    assert [len(batch) for batch in images] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate(images), tiles.images)
    np.testing.assert_array_equal(np.concatenate(labels).argmax(axis=1), tiles.labels)


def test_batches_are_raw_float_pixels_and_one_hot_labels(demo_tiles):
    ((images, labels),) = batches(demo_tiles[:8], batch_size=8)
    assert images.dtype == labels.dtype == np.float32
    assert images.shape == (8, 64, 64, 3)
    assert labels.shape == (8, 10)
    assert 1 < images.max() <= 255
    np.testing.assert_array_equal(labels.sum(axis=1), 1)


def test_shuffling_is_seeded_and_differs_between_epochs(demo_tiles):
    tiles = demo_tiles[::4]
    options = {"batch_size": 60, "shuffle_seed": 3}
    steps = [len(images) for images, _ in batches(tiles, **options, epochs=range(2))]
    assert steps == [60, 40, 60, 40]
    passes = [
        np.concatenate([images for images, _ in batches(tiles, **options, epochs=epochs)])
        for epochs in (range(2), range(1), range(1, 2))
    ]
    both, first, second = passes
    np.testing.assert_array_equal(both, np.concatenate([first, second]))
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first, axis=None), np.sort(tiles.images, axis=None))
    other = np.concatenate([x for x, _ in batches(tiles, **{**options, "shuffle_seed": 4})])
    assert not np.array_equal(first, other)


def test_mixup_blends_tiles_as_their_labels_and_is_seeded(demo_tiles):
    # Tiles of one gray value per class: from the value of a blend follows what its label must be.
    tiles = demo_tiles[::6]
    images = np.repeat(25 * tiles.labels, 64 * 64 * 3).reshape(-1, 64, 64, 3).astype(np.uint8)
    tiles = dataclasses.replace(tiles, images=images)
    options = {"batch_size": len(tiles), "shuffle_seed": 3, "mixup": 0.4}
    ((blended, labels),) = batches(tiles, **options)
    assert blended.dtype == labels.dtype == np.float32
    assert blended.shape == images.shape
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(blended[:, 5, 6, 0], labels @ (25 * np.arange(10)), atol=1e-2)
    assert (np.count_nonzero(labels, axis=1) == 2).mean() > 0.5
    again, second = (labels for _, labels in batches(tiles, **options, epochs=range(2)))
    np.testing.assert_array_equal(again, labels)
    ((_, resumed),) = batches(tiles, **options, epochs=range(1, 2))
    np.testing.assert_array_equal(resumed, second)
    assert not np.array_equal(np.sort(second, axis=None), np.sort(labels, axis=None))
    other = batches(tiles, **{**options, "shuffle_seed": 4})[0][1]
    assert not np.array_equal(np.sort(other, axis=None), np.sort(labels, axis=None))


def test_class_weight_weighs_a_blended_tile_by_its_label(demo_tiles):
    weights = {0: 3.0, 4: 0.5}
    options = {"batch_size": 100, "shuffle_seed": 3, "class_weight": weights}
    known = np.array([3, 1, 1, 1, 0.5, 1, 1, 1, 1, 1])
    for mixup in (0.0, 0.4):
        for _, labels, weight in pipeline.dataset(demo_tiles, **options, mixup=mixup):
            np.testing.assert_allclose(weight, labels.numpy() @ known, rtol=1e-5)
        blended = np.count_nonzero(labels, axis=1) == 2
        assert blended.any() == bool(mixup)


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_batch_that_devices_cannot_share_is_padded_with_tiles_of_no_weight(demo_tiles, replicas):
    tiles = demo_tiles[::40][:9]  # of nine classes
    seen = []
    for images, labels, weights in pipeline.dataset(tiles, batch_size=8, replicas=replicas):
        assert len(images) == len(labels) == len(weights)
        assert len(images) % replicas == 0
        real = weights.numpy() > 0
        np.testing.assert_allclose(weights.numpy()[real], len(images) / real.sum())
        seen += labels.numpy()[real].argmax(axis=1).tolist()
    assert seen == tiles.labels.tolist()


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "32"])
def test_bad_batch_size_is_named(demo_tiles, batch_size):
    with pytest.raises(ValueError, match=r"`batch_size` must be a positive integer. Received: "):
        pipeline.dataset(demo_tiles, batch_size=batch_size)


@pytest.mark.parametrize("option", [{"mixup": 0.2}, {"compressed": 0.2}, {"side": 48}])
def test_random_change_without_a_seed_is_an_error(demo_tiles, option):
    with pytest.raises(ValueError, match="`mixup`, `compressed` and `side` need a `shuffle_seed`"):
        pipeline.dataset(demo_tiles, batch_size=4, **option)


def test_squares_are_parts_of_the_tiles_at_places_that_the_seed_draws(demo_tiles):
    options = {"batch_size": 16, "shuffle_seed": 3}
    first, same = (
        np.concatenate([x for x, _ in batches(demo_tiles, **options, side=48)]) for _ in "ab"
    )
    np.testing.assert_array_equal(first, same)
    whole = np.concatenate([x for x, _ in batches(demo_tiles, **options)])
    places = set()
    for square, tile in zip(first[:50], whole, strict=False):
        windows = sliding_window_view(tile, (48, 48), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        found = np.argwhere((windows == square).all(axis=(2, 3, 4)))
        assert len(found) == 1
        places.add(tuple(found[0]))
    later = np.concatenate(
        [x for x, _ in batches(demo_tiles, **options, side=48, epochs=range(1, 2))]
    )
    twice = {image.tobytes() for image in first} & {image.tobytes() for image in later}
    assert len(twice) < 0.05 * len(first)  # one place in 289 by chance
    assert len(places) > 40
    rows, columns = np.array(list(places)).T
    assert {rows.min(), columns.min()} <= {0, 1}
    assert {rows.max(), columns.max()} <= {15, 16}


def test_compression_changes_its_share_and_is_seeded(demo_tiles):
    options = {"batch_size": 100, "shuffle_seed": 3, "compressed": 0.25}
    first, same = (np.concatenate([x for x, _ in batches(demo_tiles, **options)]) for _ in "ab")
    np.testing.assert_array_equal(first, same)
    plain = np.concatenate([x for x, _ in batches(demo_tiles, **{**options, "compressed": 0.0})])
    distance = np.abs(first - plain).mean(axis=(1, 2, 3))
    assert 0.15 < (distance > 0).mean() < 0.35
    assert distance.max() < 30  # the same tiles, in the same order


def test_shares_of_mixup_are_draws_of_the_beta_distribution():
    labels = tf.eye(4000)
    _, blended = pipeline._blend(tf.zeros((4000, 1, 1, 3)), labels, 0.5, (1, 2))
    shares = np.diag(blended)
    expected = scipy.stats.beta(0.5, 0.5)
    assert scipy.stats.kstest(shares[shares < 1], expected.cdf).pvalue > 1e-3


def test_no_tiles_is_an_error(demo_tiles):
    with pytest.raises(ValueError, match="`tiles` must hold at least one tile"):
        pipeline.dataset(demo_tiles[:0], batch_size=4)
    with pytest.raises(ValueError, match="`tiles` must hold at least one tile"):
        pipeline.channel_statistics(demo_tiles[:0])


def test_channel_statistics_are_those_of_numpy(demo_tiles):
    mean, variance = pipeline.channel_statistics(demo_tiles)
    pixels = demo_tiles.images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, pixels.var(axis=0), rtol=1e-9)


def test_channel_statistics_of_the_real_tiles(real_tiles):
    mean, variance = pipeline.channel_statistics(real_tiles)
    np.testing.assert_allclose(mean, [87, 97, 103], atol=1)
    np.testing.assert_allclose(np.sqrt(variance), [52, 35, 29.6], atol=1)


def test_nothing_is_tuned_by_a_thread_that_is_waited_for(demo_tiles):
    assert not pipeline.dataset(demo_tiles, batch_size=8).options().autotune.enabled


def test_tiles_are_blended_before_they_are_saved_again(demo_tiles):
    options = {"batch_size": 16, "shuffle_seed": 3, "mixup": 0.4}
    ((blended, _),) = batches(demo_tiles[:16], **options)
    ((saved, _),) = batches(demo_tiles[:16], **options, compressed=1.0)
    np.testing.assert_array_equal(saved, np.rint(saved))  # blended later, they would be between
    assert saved.dtype == np.float32
    assert 0 < np.abs(saved - blended).mean() < 20
