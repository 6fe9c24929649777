"""Training in half precision, where that is fast (`devices.precision` says where)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from eurosat_helpers import augmentation, models
from eurosat_helpers.normalization import FusedBatchNormalization


@contextlib.contextmanager
def computing_in(policy: str, model: keras.Model) -> Iterator[None]:
    """Compute in half precision, on images of any size, for a while; the weights stay float32."""
    # Pixels are changed and normalized in float32; a float16 softmax loses small probabilities.
    full = [augmentation.RandomSymmetry, augmentation.RandomAppearance]
    full += [keras.layers.Normalization, FusedBatchNormalization]
    if policy == "mixed_bfloat16":  # on CPUs these have a slow kernel only
        full.append(keras.layers.DepthwiseConv2D)
    outputs = [model.get_layer(name) for name in model.output_names]
    layers = [
        layer
        for layer in models.sublayers(model)
        if not isinstance(layer, tuple(full)) and layer not in outputs
    ]
    before, spec = [layer.dtype_policy for layer in layers], model.input_spec
    try:
        model.input_spec = None  # else Keras refuses all sizes but that of the input
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        model.input_spec = spec
        for layer, was in zip(layers, before, strict=True):
            layer.dtype_policy = was
