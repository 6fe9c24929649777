"""What layers do otherwise while they are trained: half precision, statistics that follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from eurosat_helpers import augmentation, models
from eurosat_helpers.normalization import FusedBatchNormalization


@contextlib.contextmanager
def computing_in(policy: str, model: keras.Model) -> Iterator[None]:
    """Compute in half precision, with float32 weights, for a while, on images of any size."""
    # Pixels are changed and normalized in float32; a float16 softmax loses small probabilities.
    full = (augmentation.RandomSymmetry, augmentation.RandomAppearance)
    full += (keras.layers.Normalization, FusedBatchNormalization)
    if policy == "mixed_bfloat16":  # on CPUs these have a slow kernel only
        full += (keras.layers.DepthwiseConv2D,)
    outputs = [output._keras_history.operation for output in model.outputs]
    parts = list(models.sublayers(model))
    if other := {part.dtype_policy.name for part in parts} - {"float32"}:
        wanted = "`model` must be built in float32 (`policy` makes the training half precision)"
        raise ValueError(f"{wanted}. Received: {other}")
    layers = [part for part in parts if not isinstance(part, full) and part not in outputs]
    networks = [part for part in parts if isinstance(part, keras.Model)]
    before, specs = [x.dtype_policy for x in layers], [x.input_spec for x in networks]
    try:
        for network in networks:  # else Keras refuses all sizes but that of the input
            network.input_spec = None
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for network, spec in zip(networks, specs, strict=True):
            network.input_spec = spec
        for layer, was in zip(layers, before, strict=True):
            layer.dtype_policy = was


@contextlib.contextmanager
def _following(model: keras.Model, steps: int) -> Iterator[None]:
    """Let moving statistics follow within a fifth of a training of few `steps`, for a while."""
    layers = [x for x in models.sublayers(model) if isinstance(x, FusedBatchNormalization)]
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            if layer.momentum < 1:  # else they are to stay as they are
                layer.momentum = min(layer.momentum, max(0.0, 1 - 5 / steps))
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
