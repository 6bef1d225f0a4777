"""Llama and the families that differ from it in biases, head norms, factors and the form of their matrices: Mistral, Qwen2,
Qwen3, Phi-3, Granite, SmolLM3.

x -> RMSNorm -> qkv -> rotary(q, k) -> attention -> o -> +x -> RMSNorm -> gate_up -> silu(gate) * up -> down -> +x

Granite's factors become part of what they scale: the embedding, the scores, the matrices before a residual sum, the head. Some
layers of SmolLM3 turn nothing. Phi-3 keeps q, k, v and gate, up stacked as they are wanted here, and may turn a part of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.ops import Add, Gate, Norm, Rotary
from kirin_lava.models.config import (
    MOST_HEAD_WIDTH,
    MOST_LAYERS,
    MOST_POSITIONS,
    Config,
    ConfigError,
    flag,
    mapping,
    positive,
    real,
    word,
    words,
)
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load
from kirin_lava.models.parts import Parts, gains, scaled, slices
from kirin_lava.models.rope import Rope, check_rope, paired_rows, rope_of, static_positions

__all__ = ["LLAMA"]


@dataclass(frozen=True)
class _Kind:
    """What is fixed in a family, or the default of transformers where config.json lacks an entry.

    Attributes:
        kv_heads: None for as many as queries; so is an entry of null. head_dim: None for width / heads.
        biases: which there may be: "qkv" are always there, whatever a config says, "attention" and "mlp" where it says so.
        head_norms: of queries and keys. fused: whether q, k, v and gate, up are one matrix each. partial: a part of a head may
            be turned. slides: whether the attention of some layers may slide.
    """

    positions: int = 2048
    kv_heads: int | None = None
    head_dim: int | None = None
    eps: float = 1e-6
    theta: float = 10000.0
    tied: bool = False
    biases: tuple[str, ...] = ()
    head_norms: bool = False
    fused: bool = False
    partial: bool = False
    slides: bool = False


_KINDS = {
    "llama": _Kind(biases=("attention", "mlp")),
    "mistral": _Kind(131072, kv_heads=8),
    "qwen2": _Kind(32768, kv_heads=32, biases=("qkv",), slides=True),
    "qwen3": _Kind(32768, kv_heads=32, head_dim=128, biases=("attention",), head_norms=True, slides=True),
    "phi3": _Kind(4096, eps=1e-5, fused=True, partial=True),
    "granite": _Kind(biases=("attention", "mlp")),
    "smollm3": _Kind(32768, kv_heads=4, theta=2e6, tied=True, biases=("attention", "mlp"), slides=True),
}
_SLIDING = "sliding_attention"
_MOST_ROTARY = 1 << 28  # entries, 1 GiB for each of the two tables


def _kind(config: Config) -> _Kind:
    return _KINDS[config["model_type"]]


def _check(config: Config) -> None:
    activation = word(config, "hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedError(f"activation {activation!r} is not supported in this family; supported is: silu")
    check_rope(config)
    for entries in (config, mapping(config, "rope_scaling"), mapping(config, "rope_parameters")):
        if real(entries, "partial_rotary_factor", 1.0) != 1.0 and not _kind(config).partial:
            raise UnsupportedError("a partial rotary embedding is not supported here; supported is: one over the whole head")
    kinds = words(config, "layer_types")
    odd = [kind for kind in kinds if kind not in (_SLIDING, "full_attention")]
    if odd:
        raise UnsupportedError(f"layers of type {odd[0]!r} are not supported; supported are: {_SLIDING}, full_attention")
    slides = _SLIDING in kinds or (config["model_type"] in ("llama", "granite") and flag(config, "use_sliding_window", False))
    if slides and (not _kind(config).slides or _reach(config) is None):
        raise UnsupportedError(
            "sliding-window attention without a window is not supported; supported are: layer_types that say so together with "
            "use_sliding_window and sliding_window, in qwen2, qwen3 and smollm3"
        )
    _rope(config)
    for index in range(_dimensions(config).layers):
        _turns(config, index)
        _window(config, index)


def _dimensions(config: Config) -> Dimensions:
    kind = _kind(config)
    width, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    absent = kind.kv_heads or heads if "num_key_value_heads" not in config else heads
    kv_heads = positive(config, "num_key_value_heads", absent)
    if heads % kv_heads:
        raise UsageError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if config.get("head_dim") is None and kind.head_dim is None and width % heads:
        raise UsageError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}, and there is no head_dim")
    head_dim = positive(config, "head_dim", kind.head_dim or width // heads, MOST_HEAD_WIDTH)
    if head_dim % 2:
        raise UsageError(f"heads of width {head_dim} have no rotary embedding: the width must be even")
    positions = static_positions(config, positive(config, "max_position_embeddings", kind.positions, MOST_POSITIONS))
    if positions * head_dim > _MOST_ROTARY:
        raise UnsupportedError(
            f"rotary tables of {positions} positions times {head_dim} are not supported; supported are up to {_MOST_ROTARY} "
            "entries: lower max_position_embeddings"
        )
    return Dimensions(
        layers=positive(config, "num_hidden_layers", most=MOST_LAYERS),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=positive(config, "intermediate_size"),
        vocabulary=positive(config, "vocab_size"),
        max_positions=positions,
    )


def _reach(config: Config) -> int | None:
    """Positions that layers see whose attention slides; None where none does."""
    name = config["model_type"]
    if name in ("mistral", "phi3"):  # 4096 is the default of transformers for Mistral
        absent = name == "mistral" and "sliding_window" not in config
        return 4096 if absent else _stated_window(config)
    if not _kind(config).slides or not flag(config, "use_sliding_window", False):
        return None
    return 4096 if name != "smollm3" and "sliding_window" not in config else _stated_window(config)


def _stated_window(config: Config) -> int | None:
    return None if config.get("sliding_window") is None else positive(config, "sliding_window", most=MOST_POSITIONS)


def _window(config: Config, index: int) -> int | None:
    """The window of a layer; None where it sees the whole context."""
    reach, d = _reach(config), _dimensions(config)
    if reach is None or reach >= d.max_positions:
        return None
    if not _kind(config).slides:  # all layers alike
        return reach
    kinds = words(config, "layer_types")
    if kinds and len(kinds) != d.layers:
        raise ConfigError(
            f"layer_types has {len(kinds)} entries for {d.layers} layers; fetch the checkpoint's own config again"
        )
    if kinds:
        return reach if kinds[index] == _SLIDING else None
    if config["model_type"] == "smollm3":
        return None if _turns(config, index) else reach
    first = config.get("max_window_layers")
    return reach if index >= (28 if first is None else first) else None


def _factor(config: Config, key: str) -> float:
    """One of Granite's factors, 1 elsewhere."""
    return real(config, key, 1.0) if config["model_type"] == "granite" else 1.0


def _rope(config: Config) -> Rope:
    kind = _kind(config)
    part = real(config, "partial_rotary_factor", 1.0) if kind.partial else 1.0
    if part > 1.0:
        raise ConfigError(f"partial_rotary_factor is {part}, not at most 1; fetch the checkpoint's own config again")
    return rope_of(config, _dimensions(config).head_dim, part, kind.theta)


def _turns(config: Config, index: int) -> bool:
    """Whether a layer turns queries and keys."""
    if config["model_type"] != "smollm3":
        return True
    layers = config.get("no_rope_layers")
    if layers is None:
        return (index + 1) % positive(config, "no_rope_layer_interval", 4) != 0
    if not isinstance(layers, list) or len(layers) <= index or layers[index] not in (0, 1):
        raise ConfigError("no_rope_layers does not state 0 or 1 for every layer; fetch the checkpoint's own config again")
    return bool(layers[index])


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    tokens = load("model.embed_tokens.weight", (d.vocabulary, d.width))
    return FloatEmbedding(scaled(tokens, _factor(config, "embedding_multiplier")))


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d, kind, rope, turns = _dimensions(config), _kind(config), _rope(config), _turns(config, index)
    read = Parts(load, f"model.layers.{index}.", real(config, "rms_norm_eps", kind.eps))
    attention_bias = "attention" in kind.biases and flag(config, "attention_bias", False)
    mlp_bias = "mlp" in kind.biases and flag(config, "mlp_bias", False)
    query, keyed = d.heads * d.head_dim, d.kv_heads * d.head_dim
    factor = real(config, "attention_multiplier", 1.0) if config["model_type"] == "granite" else d.head_dim**-0.5
    gain: Tensor | float = 1.0
    rows = None
    if turns and rope.turned == d.head_dim:
        factor *= rope.attention**2
    elif turns:
        rows = torch.cat(
            [
                paired_rows(d.heads, d.head_dim, rope.turned),
                query + paired_rows(d.kv_heads, d.head_dim, rope.turned),
                torch.arange(query + keyed, query + 2 * keyed),
            ]
        )
        half = (rope.turned // 2, rope.attention**2), ((d.head_dim - rope.turned) // 2, 1.0)
        gain = gains(*(half * 2 * d.heads), (2 * keyed, 1.0))
    if kind.fused:
        qkv, gate_up = {"self_attn.qkv_proj": query + 2 * keyed}, {"mlp.gate_up_proj": 2 * d.hidden}
    else:
        qkv = {"self_attn.q_proj": query, "self_attn.k_proj": keyed, "self_attn.v_proj": keyed}
        gate_up = {"mlp.gate_proj": d.hidden, "mlp.up_proj": d.hidden}
    residual = _factor(config, "residual_multiplier")
    q, k = "q", "k"
    ops: list[FloatOp] = [
        read.norm("input_layernorm", "x", "attn.normed", d.width),
        read.dense("attn.qkv", "attn.normed", "qkv", qkv, d.width, attention_bias or "qkv" in kind.biases, rows, gain),
        *slices(query, keyed),
    ]
    if kind.head_norms:
        ops += [
            read.norm("self_attn.q_norm", q, "q.normed", d.head_dim, d.heads),
            read.norm("self_attn.k_norm", k, "k.normed", d.head_dim, d.kv_heads),
        ]
        q, k = "q.normed", "k.normed"
    if turns:
        ops += [
            Rotary("attn.q.rotary", q, "q.turned", d.heads),
            Rotary("attn.k.rotary", k, "k.turned", d.kv_heads),
        ]
        q, k = "q.turned", "k.turned"
    ops += [
        Attention("attn", q, k, "v", "mixed", d.heads, d.kv_heads, d.head_dim, factor, window=_window(config, index)),
        read.dense("attn.o", "mixed", "attended", {"self_attn.o_proj": d.width}, query, attention_bias, gain=residual),
        Add("attn.residual", "x", "attended", "middle"),
        read.norm("post_attention_layernorm", "middle", "mlp.normed", d.width),
        read.dense("mlp.gate_up", "mlp.normed", "gate_up", gate_up, d.width, mlp_bias),
        Gate("mlp.gate", "gate_up", "gated"),
        read.dense("mlp.down", "gated", "fed", {"mlp.down_proj": d.width}, d.hidden, mlp_bias, gain=residual),
        Add("mlp.residual", "middle", "fed", "y"),
    ]
    return FloatBlock(f"blocks.{index}", tuple(ops), "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d, kind = _dimensions(config), _kind(config)
    weight = load("model.norm.weight", (d.width,)).numpy()
    tied = flag(config, "tie_word_embeddings", kind.tied)
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    logits = scaled(load(name, (d.vocabulary, d.width)), 1.0 / _factor(config, "logits_scaling"))
    ops: tuple[FloatOp, ...] = (
        Norm("norm", "x", "normed", weight, None, real(config, "rms_norm_eps", kind.eps), center=False),
        Dense("lm_head", "normed", "logits", logits, None),
    )
    return FloatBlock("head", ops, "logits")


def _rotary(config: Config) -> Tensor:
    return _rope(config).frequencies


LLAMA = Family(
    model_types=tuple(_KINDS),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.gate_up", "mlp.down", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    rotary=_rotary,
)
