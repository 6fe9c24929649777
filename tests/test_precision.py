"""Tests of eurosat_helpers.precision; what it does to a training is in test_training.py."""

import pytest

from eurosat_helpers import models, precision


def test_half_precision_is_for_the_inner_layers_and_only_for_a_while():
    size = {"stem_width": 4, "widths": (8,), "blocks": (1,)}
    model = models.build_cnn(mean=[90] * 3, variance=[900] * 3, seed=0, **size)
    names = "normalization", "stem-convolution", "stem-normalization", "stem-relu", "head-logits"
    layers = [model.get_layer(name) for name in names]
    with precision.computing_in("mixed_float16", model):
        dtypes = [layer.compute_dtype for layer in layers]
        assert dtypes == ["float32", "float16", "float32", "float16", "float32"]
        assert model.dtype_policy.name == "mixed_float16"  # from it Keras knows to scale the loss
    assert {layer.compute_dtype for layer in (model, *model.layers)} == {"float32"}


def test_model_that_was_built_in_half_precision_is_refused():
    model = models.build_cnn(mean=[90] * 3, variance=[900] * 3, stem_width=4, widths=(8,))
    model.get_layer("stem-convolution").dtype_policy = "mixed_bfloat16"
    with (
        pytest.raises(ValueError, match=r"must be built in float32 .*{'mixed_bfloat16'}"),
        precision.computing_in("float32", model),
    ):
        pass
