"""GPT-NeoX and Pythia: LayerNorm with bias, a part of each head turned, GELU, and both halves of a layer side by side.

x -> LayerNorm -> qkv -> rotary(q, k) -> attention -> o ; x -> LayerNorm -> fc1 -> gelu -> fc2 ; x + both        (parallel)
x -> LayerNorm -> qkv -> rotary(q, k) -> attention -> o -> +x -> LayerNorm -> fc1 -> gelu -> fc2 -> +x
"""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.ops import Add, Gelu, Rotary
from kirin_lava.models.config import MOST_LAYERS, MOST_POSITIONS, Config, ConfigError, flag, positive, real, word
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load
from kirin_lava.models.parts import GELUS, Parts, head_width, slices
from kirin_lava.models.rope import Rope, check_rope, paired_rows, rope_of, static_positions

__all__ = ["GPT_NEOX"]

_PREFIX = "gpt_neox."
_SCALINGS = ("default", "linear", "dynamic", "llama3")  # others multiply the part of a head that is turned


def _check(config: Config) -> None:
    activation = word(config, "hidden_act", "gelu")
    if activation not in GELUS:
        raise UnsupportedError(
            f"activation {activation!r} is not supported in this family; supported are: {', '.join(GELUS)}; of ReLU models: opt"
        )
    check_rope(config, _SCALINGS)
    _rope(config)


def _dimensions(config: Config) -> Dimensions:
    heads = positive(config, "num_attention_heads")
    return Dimensions(
        layers=positive(config, "num_hidden_layers", most=MOST_LAYERS),
        width=positive(config, "hidden_size"),
        heads=heads,
        kv_heads=heads,
        head_dim=head_width(config, "hidden_size", "num_attention_heads"),
        hidden=positive(config, "intermediate_size"),
        vocabulary=positive(config, "vocab_size"),
        max_positions=static_positions(config, positive(config, "max_position_embeddings", 2048, MOST_POSITIONS)),
    )


def _rope(config: Config) -> Rope:
    part = real(config, "rotary_pct", 0.25)
    if part > 1.0:
        raise ConfigError(f"rotary_pct is {part}, not at most 1; fetch the checkpoint's own config again")
    base = real(config, "rotary_emb_base", 10000.0)
    return rope_of(config, _dimensions(config).head_dim, part, base)


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    return FloatEmbedding(load(f"{_PREFIX}embed_in.weight", (d.vocabulary, d.width)))


def _parts(config: Config, load: Load, prefix: str) -> Parts:
    return Parts(load, f"{_PREFIX}{prefix}", real(config, "layer_norm_eps", 1e-5), center=True)


def _qkv_rows(heads: int, head_dim: int, turned: int) -> Tensor:
    """Rows of q, k and v, the heads of each together; a checkpoint has q, k and v of a head together."""
    paired = paired_rows(1, head_dim, turned)
    first = 3 * head_dim * torch.arange(heads).unsqueeze(1)
    parts = (paired, head_dim + paired, 2 * head_dim + torch.arange(head_dim))
    return torch.cat([(first + part).flatten() for part in parts])


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d, read = _dimensions(config), _parts(config, load, f"layers.{index}.")
    bias, parallel = flag(config, "attention_bias", True), flag(config, "use_parallel_residual", True)
    exact = GELUS[word(config, "hidden_act", "gelu")]
    rows = _qkv_rows(d.heads, d.head_dim, _rope(config).turned)
    source = "x" if parallel else "middle"
    ops: tuple[FloatOp, ...] = (
        read.norm("input_layernorm", "x", "attn.normed", d.width),
        read.dense("attn.qkv", "attn.normed", "qkv", {"attention.query_key_value": 3 * d.width}, d.width, bias, rows),
        *slices(d.width, d.width),
        Rotary("attn.q.rotary", "q", "q.turned", d.heads),
        Rotary("attn.k.rotary", "k", "k.turned", d.heads),
        Attention("attn", "q.turned", "k.turned", "v", "mixed", d.heads, d.heads, d.head_dim),
        read.dense("attn.o", "mixed", "attended", {"attention.dense": d.width}, d.width, bias),
        Add("attn.residual", "x", "attended", "middle"),
        read.norm("post_attention_layernorm", source, "mlp.normed", d.width),
        read.dense("mlp.fc1", "mlp.normed", "wide", {"mlp.dense_h_to_4h": d.hidden}, d.width, True),
        Gelu("mlp.gelu", "wide", "active", exact),
        read.dense("mlp.fc2", "active", "fed", {"mlp.dense_4h_to_h": d.width}, d.hidden, True),
        Add("mlp.residual", "middle", "fed", "y"),
    )
    return FloatBlock(f"blocks.{index}", ops, "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    name = f"{_PREFIX}embed_in.weight" if flag(config, "tie_word_embeddings", False) else "embed_out.weight"
    ops: tuple[FloatOp, ...] = (
        _parts(config, load, "").norm("final_layer_norm", "x", "normed", d.width),
        Dense("lm_head", "normed", "logits", load(name, (d.vocabulary, d.width)), None),
    )
    return FloatBlock("head", ops, "logits")


def _rotary(config: Config) -> Tensor:
    return _rope(config).frequencies


GPT_NEOX = Family(
    model_types=("gpt_neox",),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.fc1", "mlp.fc2", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    rotary=_rotary,
    tokens=f"{_PREFIX}embed_in.weight",
    lm_head="embed_out.weight",
    prefix=_PREFIX,
    derived=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),  # a mask and a table, which older files keep
)
