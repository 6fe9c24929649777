"""Orthogonal steps for the kernels of convolutions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from eurosat_helpers import muon


@pytest.mark.parametrize("shape", [(300, 40), (20, 90), (32, 32)])
@pytest.mark.parametrize("condition", [1, 50])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape, condition):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.geomspace(1, 1 / condition, min(shape))
    result = muon._orthogonalized(tf.constant((left * values) @ right, tf.float32)).numpy()
    among = left.T @ result @ right.T
    assert np.diag(among).min() > 0.5
    assert np.diag(among).max() < 1.25
    np.testing.assert_allclose(among, np.diag(np.diag(among)), atol=1e-3)


def test_only_convolutions_that_are_not_depthwise_take_other_steps_than_adamw():
    def trained(convolutions):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3)])
        model.add(layers.DepthwiseConv2D(3))
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(2))
        before = model.get_weights()
        optimizer = muon.Muon(0.01, weight_decay=0.0, convolutions=convolutions)
        model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
        images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
        model.fit(images, np.eye(2, dtype="float32")[np.arange(16) % 2], batch_size=16, verbose=0)
        return [new - old for new, old in zip(model.get_weights(), before, strict=True)]

    with_muon, adamw = trained(convolutions=True), trained(convolutions=False)
    # The matrix has rank 5 and 27 rows, so a step has this root mean square at the most.
    assert 0.7 < np.sqrt(np.mean(with_muon[0] ** 2)) / (0.01 * muon.STEP) < 1.25
    assert not np.allclose(with_muon[0], adamw[0], atol=1e-4)
    for one, other in zip(with_muon[1:], adamw[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_restored_from_its_configuration():
    optimizer = muon.Muon(0.01, weight_decay=0.1, convolutions=False)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (type(again), again.convolutions) == (muon.Muon, False)
    assert again.weight_decay == 0.1
