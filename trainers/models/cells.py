"""Recurrent cells, as their papers write them: what happens in one step of time.

A cell is a Keras layer that `keras.layers.RNN` takes through a sequence: `cell(x, states)` gives the output of the step
and the states after it. x is [batch, inputs], each state [batch, width]; zeros before the first step. In the formulas
every gate has weights W, U, b of its own, and * is element by element.
"""

from typing import Any

import keras
from keras import ops


class Cell(keras.Layer):
    """Weights for some gates: each sees the input and the state before, has `width` units and a bias.

    A square recurrent matrix begins orthogonal: it turns the state and neither stretches nor shrinks it.
    """

    gates: int  # that see the input
    state_gates: int  # that see the state as it is
    states = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.state_size = [width] * self.states
        self.output_size = width

    def build(self, input_shape: Any) -> None:
        inputs, width = input_shape[-1], self.width
        self.from_input = self.add_weight(shape=(inputs, self.gates * width), name="from_input")
        self.from_state = self.add_weight(
            shape=(width, self.state_gates * width), initializer=_orthogonal(self.state_gates), name="from_state"
        )
        self.bias = self.add_weight(shape=(self.gates * width,), initializer="zeros", name="bias")


class Rnn(Cell):
    """The simple recurrent network (Elman 1990).

    h = tanh(W x + U h + b)
    """

    gates = state_gates = 1

    def call(self, x: Any, states: Any) -> Any:
        (h,) = states
        h = ops.tanh(x @ self.from_input + h @ self.from_state + self.bias)
        return h, [h]


class Lstm(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers, Schmidhuber and Cummins 2000).

    i, f, o = σ(W x + U h + b)      what enters the memory, what stays there, what shows
    g       = tanh(W x + U h + b)
    c = f * c + i * g               a sum: a gradient passes it multiplied by f alone
    h = o * tanh(c)

    The forget gate's bias begins at 1, so that a new network remembers (Jozefowicz, Zaremba and Sutskever 2015).
    """

    gates = state_gates = 4
    states = 2

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.bias.assign(ops.repeat(ops.array([0.0, 1.0, 0.0, 0.0]), self.width))

    def call(self, x: Any, states: Any) -> Any:
        h, c = states
        i, f, o, g = ops.split(x @ self.from_input + h @ self.from_state + self.bias, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


class PeepholeLstm(Lstm):
    """An LSTM whose gates see the memory, too, unit by unit (Gers and Schmidhuber 2000): inside σ, i and f get p * c of
    the memory before the step, o that of the new one. Without it, a closed o hides the memory from the gates."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.peepholes = self.add_weight(shape=(3, self.width), initializer="zeros", name="peepholes")

    def call(self, x: Any, states: Any) -> Any:
        h, c = states
        to_i, to_f, to_o = ops.unstack(self.peepholes, 3)
        i, f, o, g = ops.split(x @ self.from_input + h @ self.from_state + self.bias, 4, axis=-1)
        c = ops.sigmoid(f + to_f * c) * c + ops.sigmoid(i + to_i * c) * ops.tanh(g)
        h = ops.sigmoid(o + to_o * c) * ops.tanh(c)
        return h, [h, c]


class Gru(Cell):
    """The gated recurrent unit (Cho et al. 2014), an LSTM's idea with one state and two gates.

    r, z = σ(W x + U h + b)             how much of the past the new value sees, how much of it stays
    n    = tanh(W x + U (r * h) + b)
    h = z * h + (1 - z) * n

    The bias of z begins at 1, as that of the LSTM's forget gate.
    """

    gates, state_gates = 3, 2

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.bias.assign(ops.repeat(ops.array([0.0, 1.0, 0.0]), self.width))
        self.from_reset_state = self.add_weight(
            shape=(self.width,) * 2, initializer="orthogonal", name="from_reset_state"
        )

    def call(self, x: Any, states: Any) -> Any:
        (h,) = states
        r, z, n = ops.split(x @ self.from_input + self.bias, 3, axis=-1)
        h_to_r, h_to_z = ops.split(h @ self.from_state, 2, axis=-1)
        r, z = ops.sigmoid(r + h_to_r), ops.sigmoid(z + h_to_z)
        n = ops.tanh(n + (r * h) @ self.from_reset_state)
        h = z * h + (1 - z) * n
        return h, [h]


CELLS = {"rnn": Rnn, "lstm": Lstm, "lstm_peephole": PeepholeLstm, "gru": Gru}


def _orthogonal(gates: int) -> Any:
    """A square orthogonal matrix for each gate, side by side."""

    def weights(shape: Any, dtype: Any = None) -> Any:
        square = keras.initializers.Orthogonal()
        return ops.concatenate([square((shape[0], shape[0]), dtype) for _ in range(gates)], axis=-1)

    return weights
