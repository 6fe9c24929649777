"""The optimizer: Muon for the kernels of convolutions, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from eurosat_helpers import workers

# Quintic Newton-Schulz iteration: five of them take singular values of 0.001 to 1 near 1.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
STEP = 0.2  # root mean square of a step in units of the learning rate, about that of AdamW
MOMENTUM = 0.95


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class Muon(keras.optimizers.AdamW):
    """AdamW, but with orthogonal steps for the kernels of convolutions.

    A kernel is flattened to a matrix, one column per output channel. The momentum of its gradient
    is replaced by a matrix with the same singular vectors and singular values near 1 (Muon: Jordan
    et al. 2024, https://kellerjordan.github.io/posts/muon), scaled so that it takes the learning
    rate and the weight decay of AdamW (Liu et al., arXiv 2502.16982). Keras' own Muon leaves
    kernels of more than two dimensions to AdamW, and these are nearly all of a CNN. With several
    workers the gradients are averaged first.

    Args:
        learning_rate, weight_decay: As in AdamW.
        convolutions: Whether kernels of convolutions, except depthwise ones, take such steps; False
            is AdamW for all.
    """

    def __init__(
        self, learning_rate: object = 0.001, *, convolutions: bool = True, **options: object
    ) -> None:
        super().__init__(learning_rate, **options)
        self.convolutions = convolutions

    def get_config(self) -> dict:
        return {**super().get_config(), "convolutions": self.convolutions}

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: object = None) -> None:
        super().apply(workers.mean(grads), trainable_variables)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        if not self.convolutions or len(variable.shape) != 4 or 1 in variable.shape[2:]:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[self._get_variable_index(variable)]
        self.assign(momentum, MOMENTUM * momentum + gradient)
        ahead = tf.convert_to_tensor(gradient + MOMENTUM * momentum)  # Nesterov
        matrix = tf.reshape(ahead, (-1, variable.shape[-1]))
        step = STEP * max(matrix.shape) ** 0.5 * _orthogonalized(matrix)
        self.assign_sub(variable, learning_rate * tf.reshape(step, variable.shape))


def _orthogonalized(matrix: tf.Tensor) -> tf.Tensor:
    """Bring the singular values of a float32 matrix near 1 and keep its singular vectors.

    Each iteration multiplies the matrix by a polynomial of its Gram matrix. These commute, so the
    iterations run on the small Gram matrix alone, and the matrix is multiplied once.
    """
    first, second, third = COEFFICIENTS
    matrix /= tf.norm(matrix) + 1e-7
    wide = matrix.shape[0] < matrix.shape[1]
    gram = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
    product = identity = tf.eye(gram.shape[0])
    for _ in range(ITERATIONS):
        factor = first * identity + second * gram + third * gram @ gram
        product, gram = product @ factor, factor @ gram @ factor
    return product @ matrix if wide else matrix @ product
