"""Gemma, Gemma 2 and Gemma 3 (text): GeGLU, weights of norms that 1 is added to, embeddings times the root of their width.

x -> RMSNorm -> qkv -> rotary(q, k) -> attention -> o [-> RMSNorm] -> +x
  -> RMSNorm -> gate_up -> gelu(gate) * up -> down [-> RMSNorm] -> +x

Gemma 2 and 3 have the norms in brackets, and a factor of the scores of their own; Gemma 2 caps scores and logits, Gemma 3 has
norms of queries and keys, and another base of the rotary embedding in the layers whose attention slides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.ops import Add, GeluGate, Rotary, SoftCap
from kirin_lava.models.config import (
    MOST_HEAD_WIDTH,
    MOST_LAYERS,
    MOST_POSITIONS,
    Config,
    ConfigError,
    flag,
    positive,
    real,
    word,
    words,
)
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load
from kirin_lava.models.parts import GELUS, Parts, scaled, slices
from kirin_lava.models.rope import Rope, check_rope, rope_of, static_positions

__all__ = ["GEMMA"]

_SLIDING = "sliding_attention"


def _check(config: Config) -> None:
    activation = _activation(config)
    if activation not in GELUS:
        raise UnsupportedError(f"activation {activation!r} is not supported in this family; supported are: {', '.join(GELUS)}")
    if flag(config, "use_bidirectional_attention", False):
        raise UnsupportedError("attention in both directions is not supported in this family; supported are: causal models")
    check_rope(config)
    kinds = [kind for kind in words(config, "layer_types") if kind not in (_SLIDING, "full_attention")]
    if kinds:
        raise UnsupportedError(f"layers of type {kinds[0]!r} are not supported; supported are: {_SLIDING}, full_attention")
    _slides(config, 0)
    _rope(config)


def _activation(config: Config) -> str:
    """Of the first Gemma some versions of transformers read one entry, some the other."""
    newer = word(config, "hidden_activation", "gelu_pytorch_tanh")
    if config["model_type"] != "gemma":
        return newer
    older = word(config, "hidden_act", newer)
    if config.get("hidden_activation") is not None and GELUS.get(older) != GELUS.get(newer):
        raise ConfigError(f"hidden_act is {older!r}, hidden_activation {newer!r}; leave in the one it was trained with")
    return older


def _slides(config: Config, index: int) -> bool:
    """Whether the attention of a layer slides."""
    if config["model_type"] == "gemma":
        return False
    kinds = words(config, "layer_types")
    if not kinds:
        every = 2 if config["model_type"] == "gemma2" else positive(config, "sliding_window_pattern", 6)
        return (index + 1) % every != 0
    layers = positive(config, "num_hidden_layers", most=MOST_LAYERS)
    if len(kinds) != layers:
        raise UsageError(f"layer_types has {len(kinds)} entries for {layers} layers; fetch the checkpoint's own config again")
    return kinds[index] == _SLIDING


def _dimensions(config: Config) -> Dimensions:
    first = config["model_type"] == "gemma"
    heads = positive(config, "num_attention_heads", 16 if first else 8)
    kv_heads = positive(config, "num_key_value_heads", 16 if first else 4)
    if heads % kv_heads:
        raise UsageError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    positions = positive(config, "max_position_embeddings", 131072 if _third(config) else 8192, MOST_POSITIONS)
    return Dimensions(
        layers=positive(config, "num_hidden_layers", most=MOST_LAYERS),
        width=positive(config, "hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=positive(config, "head_dim", 256, MOST_HEAD_WIDTH),
        hidden=positive(config, "intermediate_size"),
        vocabulary=positive(config, "vocab_size"),
        max_positions=static_positions(config, positions),
    )


def _third(config: Config) -> bool:
    return config["model_type"] == "gemma3_text"


def _rope(config: Config) -> Rope:
    """The rotary embedding of the layers that do not slide."""
    return rope_of(config, _dimensions(config).head_dim, theta=1e6 if _third(config) else 1e4)


def _rotary(config: Config) -> Tensor:
    """Of Gemma 3 two: of layers that do not slide, and of those that do, whose base is not scaled."""
    rope = _rope(config)
    if not _third(config):
        return rope.frequencies
    head_dim, base = _dimensions(config).head_dim, real(config, "rope_local_base_freq", 1e4)
    local = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return torch.stack([rope.frequencies, local])


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    return FloatEmbedding(scaled(load("model.embed_tokens.weight", (d.vocabulary, d.width)), d.width**0.5))


def _parts(config: Config, load: Load, prefix: str) -> Parts:
    return Parts(load, prefix, real(config, "rms_norm_eps", 1e-6), offset=1.0)


def _cap(config: Config, key: str, default: float) -> float | None:
    """A cap of Gemma 2, and of Gemma 3 where it is stated; null is none."""
    if config["model_type"] == "gemma" or config.get(key, None if _third(config) else default) is None:
        return None
    return real(config, key, default)


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d, read, slides = _dimensions(config), _parts(config, load, f"model.layers.{index}."), _slides(config, index)
    later, bias = config["model_type"] != "gemma", flag(config, "attention_bias", False)
    query, keyed = d.heads * d.head_dim, d.kv_heads * d.head_dim
    table = 1 if _third(config) and slides else None
    scalar = real(config, "query_pre_attn_scalar", 256.0) if later else float(d.head_dim)
    factor = scalar**-0.5 * (1.0 if table else _rope(config).attention ** 2)
    qkv = {"self_attn.q_proj": query, "self_attn.k_proj": keyed, "self_attn.v_proj": keyed}
    gate_up = {"mlp.gate_proj": d.hidden, "mlp.up_proj": d.hidden}
    q, k = "q", "k"
    ops: list[FloatOp] = [
        read.norm("input_layernorm", "x", "attn.normed", d.width),
        read.dense("attn.qkv", "attn.normed", "qkv", qkv, d.width, bias),
        *slices(query, keyed),
    ]
    if _third(config):
        ops += [
            read.norm("self_attn.q_norm", "q", "q.normed", d.head_dim, d.heads),
            read.norm("self_attn.k_norm", "k", "k.normed", d.head_dim, d.kv_heads),
        ]
        q, k = "q.normed", "k.normed"
    window = positive(config, "sliding_window", 4096, MOST_POSITIONS) if slides else None
    window = None if window is None or window >= d.max_positions else window
    cap = _cap(config, "attn_logit_softcapping", 50.0)
    attended, fed = ("attended.plain", "fed.plain") if later else ("attended", "fed")
    ops += [
        Rotary("attn.q.rotary", q, "q.turned", d.heads, table),
        Rotary("attn.k.rotary", k, "k.turned", d.kv_heads, table),
        Attention(
            "attn", "q.turned", "k.turned", "v", "mixed", d.heads, d.kv_heads, d.head_dim, factor, cap=cap, window=window
        ),
        read.dense("attn.o", "mixed", attended, {"self_attn.o_proj": d.width}, query, bias),
    ]
    if later:
        ops.append(read.norm("post_attention_layernorm", attended, "attended", d.width))
    before = "pre_feedforward_layernorm" if later else "post_attention_layernorm"
    ops += [
        Add("attn.residual", "x", "attended", "middle"),
        read.norm(before, "middle", "mlp.normed", d.width),
        read.dense("mlp.gate_up", "mlp.normed", "gate_up", gate_up, d.width, False),
        GeluGate("mlp.gate", "gate_up", "gated", GELUS[_activation(config)]),
        read.dense("mlp.down", "gated", fed, {"mlp.down_proj": d.width}, d.hidden, False),
    ]
    if later:
        ops.append(read.norm("post_feedforward_layernorm", fed, "fed", d.width))
    ops.append(Add("mlp.residual", "middle", "fed", "y"))
    return FloatBlock(f"blocks.{index}", tuple(ops), "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    name = "model.embed_tokens.weight" if flag(config, "tie_word_embeddings", True) else "lm_head.weight"
    weight, cap = load(name, (d.vocabulary, d.width)), _cap(config, "final_logit_softcapping", 30.0)
    ops: list[FloatOp] = [_parts(config, load, "model.").norm("norm", "x", "normed", d.width)]
    if cap is None:
        ops.append(Dense("lm_head", "normed", "logits", weight, None))
    else:
        ops += [Dense("lm_head", "normed", "logits.plain", weight, None), SoftCap("cap", "logits.plain", "logits", cap)]
    return FloatBlock("head", tuple(ops), "logits")


GEMMA = Family(
    model_types=("gemma", "gemma2", "gemma3_text"),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.gate_up", "mlp.down", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    rotary=_rotary,
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel"),
)
