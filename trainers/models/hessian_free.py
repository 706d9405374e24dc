"""Hessian-free optimisation (Martens 2010): Newton's method for networks, without ever writing the Hessian down.

Near the weights w the loss is taken for a quadratic, f(w + d) = f(w) + g'd + d'Gd / 2, whose lowest point solves
G d = -g. G is the Gauss-Newton matrix J'HJ (J: the outputs' derivatives by the weights; H: the loss's second ones by
the outputs), which is never negative where the loss is convex in the outputs. Conjugate gradients find d from products
G v alone, and a product costs about as much as two gradients: J v by forward differentiation, J'(H J v) by backward.

Left out of the paper: its preconditioner, and curvature from a smaller batch than the gradient's.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Predict = Callable[[Any], Any]  # all weights in one vector -> outputs
Loss = Callable[[Any], Any]  # outputs -> a number

PROGRESS = 0.0005  # conjugate gradients end where a step gains less than this share of all that was gained
WINDOW = 10  # steps, over which that is measured
WARMTH = 0.95  # share of the last direction that the next search starts from
ENOUGH = 0.01  # share of the slope's promise that a step has to keep
SHORTER = 0.8  # how a step that does not is cut down, at most CUTS times
CUTS = 40


class HessianFree(tf.Module):
    """Holds what goes from one step to the next: the damping and the last direction. A checkpoint holds both."""

    def __init__(self, weights: int, *, damping: float = 1.0, products: int = 50) -> None:
        """
        Args:
            weights: how many the network has.
            damping: added to G's diagonal at first; it then follows how good the quadratic's promises are.
            products: with G, for one step at most.
        """
        super().__init__()
        self.damping = tf.Variable(damping, dtype=tf.float32, trainable=False)
        self.direction = tf.Variable(tf.zeros([weights]), trainable=False)
        self._products = products

    def step(self, predict: Predict, loss_of: Loss, weights: Any) -> tuple[Any, Any]:
        """The weights after a step, and the loss before it. To be called in a tf.function."""
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = loss_of(predict(weights))
        slope = tape.gradient(loss, weights)

        @tf.function  # so that it is traced once for several calls
        def damped(vector: Any) -> Any:
            return gauss_newton(predict, loss_of, weights, vector) + self.damping * vector

        direction, promise = conjugate_gradients(damped, -slope, WARMTH * self.direction, self._products)
        promise -= self.damping * _dot(direction, direction) / 2  # what the quadratic says without the damping

        @tf.function
        def loss_at(length: Any) -> Any:
            return loss_of(predict(weights + length * direction))

        length = line_search(loss_at, loss, _dot(slope, direction))
        self._trust(tf.math.divide_no_nan(loss_at(tf.constant(1.0)) - loss, promise))
        self.direction.assign(direction)
        return weights + length * direction, loss

    def _trust(self, kept: Any) -> None:
        """Levenberg and Marquardt's rule: the less of its promise a quadratic keeps, the closer to w it is believed."""
        factor = tf.where(kept > 0.75, 2 / 3, tf.where(kept >= 0.25, 1.0, 3 / 2))  # not a number: 3/2
        self.damping.assign(self.damping * factor)


def gauss_newton(predict: Predict, loss_of: Loss, weights: Any, vector: Any) -> Any:
    """J'HJ times a vector."""
    with tf.GradientTape() as backward:
        backward.watch(weights)
        with tf.autodiff.ForwardAccumulator(weights, vector) as forward:
            outputs = predict(weights)
        along = forward.jvp(outputs)  # J v
    with tf.autodiff.ForwardAccumulator(outputs, along) as forward:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = loss_of(outputs)
        slope = tape.gradient(loss, outputs)
    return backward.gradient(outputs, weights, output_gradients=forward.jvp(slope))


def conjugate_gradients(product: Callable[[Any], Any], right: Any, start: Any, steps: int) -> tuple[Any, Any]:
    """An x with A x = `right`, near enough, for a positive A that is known by its products; and x'Ax / 2 - x'right."""
    x = start
    rest = right - product(x)
    towards = rest
    square = _dot(rest, rest)
    gained = tf.repeat(-_dot(x, rest + right) / 2, WINDOW + 1)  # the latest values of what is minimised
    for step in tf.range(steps):
        if square <= 1e-12 * _dot(right, right):
            break
        bent = product(towards)
        share = square / _dot(towards, bent)
        x += share * towards
        rest -= share * bent
        now = _dot(rest, rest)
        towards = rest + now / square * towards
        square = now
        gained = tf.concat([gained[1:], [-_dot(x, rest + right) / 2]], axis=0)
        if step >= WINDOW and gained[-1] < 0 and gained[-1] - gained[0] > PROGRESS * WINDOW * gained[-1]:
            break
    return x, gained[-1]


def line_search(loss_at: Callable[[Any], Any], loss: Any, slope: Any) -> Any:
    """How far to go, from 1 downwards: as far as the loss falls as it should; 0 if it never does."""
    length = tf.constant(1.0)
    cuts = tf.constant(0)
    while cuts < CUTS and not loss_at(length) <= loss + ENOUGH * length * slope:
        length *= SHORTER
        cuts += 1
    return tf.where(cuts < CUTS, length, 0.0)


def _dot(a: Any, b: Any) -> Any:
    return tf.tensordot(a, b, 1)
