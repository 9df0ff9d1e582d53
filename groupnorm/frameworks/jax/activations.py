"""The activations of `groupnorm.group_norm` in JAX, by the same names and with the same slopes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from groupnorm.frameworks.arguments import LEAKY_SLOPE


def _leaky_relu(z: jax.Array) -> jax.Array:
    return jnp.where(z > 0, z, LEAKY_SLOPE * z)  # jax.nn.leaky_relu has slope 1 at 0


def _hardswish(z: jax.Array) -> jax.Array:
    return jnp.where(z <= -3, 0.0, jnp.where(z < 3, z * (z + 3) / 6, z))


_FORWARD: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": _leaky_relu,
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    "mish": lambda z: z * jnp.tanh(jax.nn.softplus(z)),
    "hardswish": _hardswish,
}


def activate(z: jax.Array, name: str | None) -> jax.Array:
    """The activation of z, same shape and dtype; None is the identity."""
    return z if name is None else _FORWARD[name](z)


def slope(z: jax.Array, name: str) -> jax.Array:
    """The activation's derivative at z, at a kink PyTorch's choice.

    It is 0 for relu and the slope for leaky_relu at 0; for hardswish 0 at -3 and 1 at 3.
    """
    return jax.jvp(_FORWARD[name], (z,), (jnp.ones_like(z),))[1]
