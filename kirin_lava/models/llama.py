"""Llama and the families that differ from it in biases and head norms only: Mistral, Qwen2, Qwen3.

x -> RMSNorm -> qkv -> rotary(q, k) -> attention -> o -> +x -> RMSNorm -> gate_up -> silu(gate) * up -> down -> +x
"""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.ops import Add, Gate, Norm, Rotary, Slice
from kirin_lava.models.config import (
    MOST_HEAD_WIDTH,
    MOST_LAYERS,
    MOST_POSITIONS,
    Config,
    flag,
    mapping,
    positive,
    real,
    rope_theta,
    word,
    words,
)
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load, concat

__all__ = ["LLAMA"]

_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}  # where there is no entry, as in transformers; null is as many as queries
_MOST_ROTARY = 1 << 28  # entries, 1 GiB for each of the two tables


def _check(config: Config) -> None:
    activation = word(config, "hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedError(f"activation {activation!r} is not supported in this family; supported is: silu")
    rope_theta(config)
    for scaling in (mapping(config, "rope_scaling"), mapping(config, "rope_parameters")):
        kind = word(scaling, "rope_type", word(scaling, "type", "default"))
        if kind != "default":
            raise UnsupportedError(
                f"rope scaling {kind!r} is not supported; supported is: the unscaled rotary embedding (default)"
            )
    for entries in (config, mapping(config, "rope_scaling"), mapping(config, "rope_parameters")):
        if real(entries, "partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedError("a partial rotary embedding is not supported; supported is: one over the whole head")
    sliding = [kind for kind in words(config, "layer_types") if kind != "full_attention"]
    if flag(config, "use_sliding_window", False) or sliding:
        raise UnsupportedError("sliding-window attention is not supported; supported are: layers that see the whole context")


def _dimensions(config: Config) -> Dimensions:
    kind = word(config, "model_type")
    width, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    absent = _KV_HEADS.get(kind, heads) if "num_key_value_heads" not in config else heads
    kv_heads = positive(config, "num_key_value_heads", absent)
    if heads % kv_heads:
        raise UsageError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if config.get("head_dim") is None and kind != "qwen3" and width % heads:
        raise UsageError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}, and there is no head_dim")
    head_dim = positive(config, "head_dim", 128 if kind == "qwen3" else width // heads, MOST_HEAD_WIDTH)
    if head_dim % 2:
        raise UsageError(f"heads of width {head_dim} have no rotary embedding: the width must be even")
    positions = positive(config, "max_position_embeddings", 2048, MOST_POSITIONS)
    if kind == "mistral":  # up to its window it sees the whole context; 4096 is the default of transformers
        window = config.get("sliding_window", 4096)
        positions = positions if window is None else min(positions, positive(config, "sliding_window", 4096))
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


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    return FloatEmbedding(load("model.embed_tokens.weight", (d.vocabulary, d.width)))


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d = _dimensions(config)
    prefix, eps = f"model.layers.{index}.", real(config, "rms_norm_eps", 1e-6)
    kind = config["model_type"]
    # Which biases there are is fixed in Qwen2 (q, k, v) and Mistral (none), whatever a config says.
    output_bias = kind in ("llama", "qwen3") and flag(config, "attention_bias", False)
    attention_bias = output_bias or kind == "qwen2"
    mlp_bias = kind == "llama" and flag(config, "mlp_bias", False)
    query, keyed = d.heads * d.head_dim, d.kv_heads * d.head_dim

    def dense(name: str, input: str, output: str, parts: dict[str, int], fan_in: int, bias: bool) -> Dense:
        weights = concat(load, [f"{prefix}{part}.weight" for part in parts], [(n, fan_in) for n in parts.values()])
        biases = concat(load, [f"{prefix}{part}.bias" for part in parts], [(n,) for n in parts.values()]) if bias else None
        return Dense(name, input, output, weights, biases)

    def norm(name: str, input: str, output: str, width: int, groups: int = 1) -> Norm:
        weight = load(f"{prefix}{name}.weight", (width,)).numpy()
        return Norm(name, input, output, weight, None, eps, center=False, groups=groups)

    qkv = {"self_attn.q_proj": query, "self_attn.k_proj": keyed, "self_attn.v_proj": keyed}
    ops: list[FloatOp] = [
        norm("input_layernorm", "x", "attn.normed", d.width),
        dense("attn.qkv", "attn.normed", "qkv", qkv, d.width, attention_bias),
        Slice("attn.q", "qkv", "q", 0, query),
        Slice("attn.k", "qkv", "k", query, query + keyed),
        Slice("attn.v", "qkv", "v", query + keyed, query + 2 * keyed),
    ]
    q, k = "q", "k"
    if kind == "qwen3":
        ops += [
            norm("self_attn.q_norm", "q", "q.normed", d.head_dim, d.heads),
            norm("self_attn.k_norm", "k", "k.normed", d.head_dim, d.kv_heads),
        ]
        q, k = "q.normed", "k.normed"
    ops += [
        Rotary("attn.q.rotary", q, "q.turned", d.heads),
        Rotary("attn.k.rotary", k, "k.turned", d.kv_heads),
        Attention("attn", "q.turned", "k.turned", "v", "mixed", d.heads, d.kv_heads, d.head_dim),
        dense("attn.o", "mixed", "attended", {"self_attn.o_proj": d.width}, query, output_bias),
        Add("attn.residual", "x", "attended", "middle"),
        norm("post_attention_layernorm", "middle", "mlp.normed", d.width),
        dense(
            "mlp.gate_up",
            "mlp.normed",
            "gate_up",
            {"mlp.gate_proj": d.hidden, "mlp.up_proj": d.hidden},
            d.width,
            mlp_bias,
        ),
        Gate("mlp.gate", "gate_up", "gated"),
        dense("mlp.down", "gated", "fed", {"mlp.down_proj": d.width}, d.hidden, mlp_bias),
        Add("mlp.residual", "middle", "fed", "y"),
    ]
    return FloatBlock(f"blocks.{index}", tuple(ops), "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    weight = load("model.norm.weight", (d.width,)).numpy()
    tied = flag(config, "tie_word_embeddings", False)
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    ops: tuple[FloatOp, ...] = (
        Norm("norm", "x", "normed", weight, None, real(config, "rms_norm_eps", 1e-6), center=False),
        Dense("lm_head", "normed", "logits", load(name, (d.vocabulary, d.width)), None),
    )
    return FloatBlock("head", ops, "logits")


def _rotary(config: Config) -> Tensor:
    d = _dimensions(config)
    exponents = torch.arange(0, d.head_dim, 2, dtype=torch.float64) / d.head_dim
    return 1.0 / (rope_theta(config) or 10000.0) ** exponents


LLAMA = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.gate_up", "mlp.down", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    rotary=_rotary,
)
