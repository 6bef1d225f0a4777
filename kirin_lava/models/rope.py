"""Rotary embeddings of a config.json: base, scaling, and the part of a head that is turned.

Frequencies are a static table: they hold for every position that a model is converted for. Two of the scalings change them with
the length of the text that is being read, `dynamic` and `longrope`; up to the length that the model was trained on they do not,
and no further does a converted model go, see `static_positions`.

    llama3, linear, yarn    as transformers computes them, by its own functions
    dynamic, longrope       up to the original length: the plain frequencies, those divided by the short factors

`yarn` and `longrope` multiply cosine and sine by a number, which is the same as multiplying the scores by its square; where
only a part of a head is turned, the same as multiplying the rows of the query that are turned. So it never reaches a table,
whose entries stay within -1..1, and the bound of the integer rotary embedding stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.models.config import Config, ConfigError, mapping, numbers, positive, real, rope_theta, word

__all__ = ["SCALINGS", "Rope", "check_rope", "paired_rows", "rope_of", "scaling_of", "static_positions"]

SCALINGS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Values of `rope_type` that convert."""

_NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True)
class Rope:
    """A rotary embedding.

    Attributes:
        frequencies: (head_dim / 2,) float64 inverse frequencies, 0 for pairs that are not turned.
        attention: what cosine and sine are multiplied with. turned: numbers of a head that are turned, the first ones.
    """

    frequencies: Tensor
    attention: float
    turned: int


def check_rope(config: Config, kinds: tuple[str, ...] = SCALINGS) -> None:
    """Raise for a scaling that is unknown, of another family, or stated twice in two ways."""
    rope_theta(config)
    kind, entries = _scaling(config)
    if kind not in kinds:
        raise UnsupportedError(f"rope scaling {kind!r} is not supported here; supported are: {', '.join(kinds)}")
    for key in _NEEDED.get(kind, ()):
        real(entries, key, None)
    if kind == "llama3" and real(entries, "low_freq_factor", None) >= real(entries, "high_freq_factor", None):
        raise ConfigError("low_freq_factor is not below high_freq_factor; fetch the checkpoint's own config again")


def static_positions(config: Config, positions: int) -> int:
    """How many of the positions a static table holds for."""
    kind, entries = _scaling(config)
    if kind == "longrope":
        return min(positions, _original(config) or positions)
    if kind == "dynamic":
        return min(positions, positive(entries, "original_max_position_embeddings", positions))
    return positions


def rope_of(config: Config, head_dim: int, part: float = 1.0, theta: float = 10000.0) -> Rope:
    """The rotary embedding of heads of this width, of which a part is turned.

    Args:
        theta: base where the config states none.
    """
    turned = int(head_dim * part)
    if turned < 2 or turned % 2 or head_dim % 2:
        raise UnsupportedError(
            f"a rotary embedding of {turned} of the {head_dim} numbers of a head is not supported; supported are: even numbers"
        )
    kind, entries = _scaling(config)
    base = rope_theta(config) or theta
    attention = 1.0
    if kind in ("default", "dynamic"):
        frequencies = 1.0 / base ** (torch.arange(0, turned, 2, dtype=torch.float64) / turned)
    else:
        frequencies, attention = _of_transformers(kind, entries, config, turned, base)
    still = torch.zeros((head_dim - turned) // 2, dtype=torch.float64)
    return Rope(torch.cat([frequencies, still]), attention, turned)


def paired_rows(heads: int, head_dim: int, turned: int) -> Tensor:
    """Rows (heads * head_dim,) of a query or key matrix in the order in which a whole head is turned: number i with number
    `i + head_dim / 2`. A checkpoint pairs i with `i + turned / 2` among the first `turned`, and leaves the others alone."""
    row = torch.arange(head_dim)
    half, still = turned // 2, (head_dim - turned) // 2
    first = torch.cat([row[:half], row[turned : turned + still]])
    second = torch.cat([row[half:turned], row[turned + still :]])
    return (torch.arange(heads)[:, None] * head_dim + torch.cat([first, second])).flatten()


def scaling_of(config: Config) -> Config | None:
    """The scaling as `rope_scaling` of transformers 4 states it; None where there is none."""
    kind, entries = _scaling(config)
    return None if kind == "default" else {"rope_type": kind, **entries}


def _original(config: Config) -> int | None:
    """The length that a model with `longrope` was trained on before it was made longer, where it is stated; 4096 is the
    default of Phi-3."""
    if config.get("original_max_position_embeddings") is None and config.get("model_type") != "phi3":
        return None
    return positive(config, "original_max_position_embeddings", 4096)


def _scaling(config: Config) -> tuple[str, Config]:
    """Kind and entries; `rope_parameters` is how transformers 5 writes what was `rope_scaling`."""
    found: dict[str, tuple[str, Config]] = {}
    for place in ("rope_parameters", "rope_scaling"):
        entries = mapping(config, place)
        kind = word(entries, "rope_type", word(entries, "type", "default"))
        kind = "longrope" if kind == "su" or (kind == "yarn" and config.get("model_type") == "phi3") else kind
        if kind != "default":
            plain = {key: value for key, value in entries.items() if key not in ("rope_type", "type", "rope_theta")}
            found[place] = kind, plain
    kinds = list(found.values())
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ConfigError("rope_parameters and rope_scaling state two scalings; leave in the one it was trained with")
    return kinds[0] if kinds else ("default", {})


def _of_transformers(kind: str, entries: Config, config: Config, turned: int, base: float) -> tuple[Tensor, float]:
    """Frequencies and attention factor by the functions of transformers, which read a config's attributes."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind == "longrope":
        for key in ("short_factor", "long_factor"):
            factors = numbers(entries, key)
            if len(factors) != turned // 2:
                raise ConfigError(
                    f"{key} has {len(factors)} numbers instead of {turned // 2}; fetch the checkpoint's own config"
                )
        if _original(config) is None:  # else their ratio stands for it
            real(entries, "factor", None if "attention_factor" not in entries else 1.0)
    for key in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "factor"):
        real(entries, key, 1.0)
    positions = positive(config, "max_position_embeddings", 2048)
    stated: dict[str, Any] = {
        "rope_theta": base,
        "rope_scaling": entries,
        "head_dim": turned,
        "hidden_size": turned,
        "num_attention_heads": 1,
        "partial_rotary_factor": 1.0,
        "max_position_embeddings": positions,
    }
    if kind == "longrope" and _original(config) is not None:
        stated["original_max_position_embeddings"] = _original(config)
    frequencies, attention = ROPE_INIT_FUNCTIONS[kind](SimpleNamespace(**stated), None)
    if not bool((frequencies > 0).all() & frequencies.isfinite().all()):
        raise ConfigError(
            f"rope scaling {kind!r} gives frequencies that are no positive numbers; fetch the checkpoint's own config"
        )
    return frequencies.double(), float(attention)
