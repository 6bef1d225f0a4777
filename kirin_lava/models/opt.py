"""OPT: learned positions, LayerNorm with bias, ReLU between the two feed-forward layers.

x -> LayerNorm -> qkv -> attention -> o -> +x -> LayerNorm -> fc1 -> relu -> fc2 -> +x        (pre-norm)
x -> qkv -> attention -> o -> +x -> LayerNorm -> fc1 -> relu -> fc2 -> +x -> LayerNorm        (post-norm)
"""

from __future__ import annotations

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.ops import Add, Norm, Relu, Slice
from kirin_lava.models.config import MOST_HEAD_WIDTH, MOST_LAYERS, MOST_POSITIONS, Config, flag, positive, word
from kirin_lava.models.layout import (
    Attention,
    Dense,
    Dimensions,
    Family,
    FloatBlock,
    FloatEmbedding,
    FloatOp,
    Load,
    concat,
)

__all__ = ["OPT"]

POSITION_OFFSET = 2  # the first two rows of OPT's position table are never used by a text
EPS = 1e-5  # LayerNorm's default in torch; OPT's config has no entry for it


def _check(config: Config) -> None:
    activation = word(config, "activation_function", "relu")
    if activation != "relu":
        raise UnsupportedError(f"activation {activation!r} is not supported in this family; supported is: relu")
    width = positive(config, "hidden_size")
    projected = positive(config, "word_embed_proj_dim", width)
    if projected != width:
        raise UnsupportedError(
            f"word_embed_proj_dim {projected} differs from hidden_size {width}: projected embeddings are not supported; "
            "supported are: embeddings as wide as the layers"
        )
    for key in ("enable_bias", "layer_norm_elementwise_affine"):
        if not flag(config, key, True):
            raise UnsupportedError(f"{key} is false; supported are: OPT models with biases and affine norms")


def _dimensions(config: Config) -> Dimensions:
    width, heads = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    if width % heads:
        raise UsageError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    if width // heads > MOST_HEAD_WIDTH:
        raise UnsupportedError(f"heads of width {width // heads} are not supported; supported are: up to {MOST_HEAD_WIDTH}")
    return Dimensions(
        layers=positive(config, "num_hidden_layers", most=MOST_LAYERS),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=positive(config, "ffn_dim"),
        vocabulary=positive(config, "vocab_size"),
        max_positions=positive(config, "max_position_embeddings", 2048, MOST_POSITIONS),
    )


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    return FloatEmbedding(
        load("model.decoder.embed_tokens.weight", (d.vocabulary, d.width)),
        load("model.decoder.embed_positions.weight", (d.max_positions + POSITION_OFFSET, d.width)),
        POSITION_OFFSET,
    )


def _norm(load: Load, prefix: str, name: str, input: str, output: str, width: int) -> Norm:
    weight = load(f"{prefix}{name}.weight", (width,)).numpy()
    bias = load(f"{prefix}{name}.bias", (width,)).numpy()
    return Norm(name, input, output, weight, bias, EPS, center=True)


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d = _dimensions(config)
    prefix = f"model.decoder.layers.{index}."
    before = flag(config, "do_layer_norm_before", True)

    def dense(name: str, input: str, output: str, parts: list[str], fan_out: int, fan_in: int) -> Dense:
        weight = concat(load, [f"{prefix}{part}.weight" for part in parts], [(fan_out, fan_in)] * len(parts))
        bias = concat(load, [f"{prefix}{part}.bias" for part in parts], [(fan_out,)] * len(parts))
        return Dense(name, input, output, weight, bias)

    def norm(name: str, input: str, output: str) -> Norm:
        return _norm(load, prefix, name, input, output, d.width)

    qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    attention: list[FloatOp] = [
        Slice("attn.q", "qkv", "q", 0, d.width),
        Slice("attn.k", "qkv", "k", d.width, 2 * d.width),
        Slice("attn.v", "qkv", "v", 2 * d.width, 3 * d.width),
        Attention("attn", "q", "k", "v", "mixed", d.heads, d.heads, d.head_dim),
        dense("attn.o", "mixed", "attended", ["self_attn.out_proj"], d.width, d.width),
    ]
    if before:
        ops: list[FloatOp] = [
            norm("self_attn_layer_norm", "x", "attn.normed"),
            dense("attn.qkv", "attn.normed", "qkv", qkv, d.width, d.width),
            *attention,
            Add("attn.residual", "x", "attended", "middle"),
            norm("final_layer_norm", "middle", "mlp.normed"),
            dense("mlp.fc1", "mlp.normed", "wide", ["fc1"], d.hidden, d.width),
            Relu("mlp.relu", "wide", "active"),
            dense("mlp.fc2", "active", "fed", ["fc2"], d.width, d.hidden),
            Add("mlp.residual", "middle", "fed", "y"),
        ]
    else:
        ops = [
            dense("attn.qkv", "x", "qkv", qkv, d.width, d.width),
            *attention,
            Add("attn.residual", "x", "attended", "summed"),
            norm("self_attn_layer_norm", "summed", "middle"),
            dense("mlp.fc1", "middle", "wide", ["fc1"], d.hidden, d.width),
            Relu("mlp.relu", "wide", "active"),
            dense("mlp.fc2", "active", "fed", ["fc2"], d.width, d.hidden),
            Add("mlp.residual", "middle", "fed", "resumed"),
            norm("final_layer_norm", "resumed", "y"),
        ]
    return FloatBlock(f"blocks.{index}", tuple(ops), "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    tied = flag(config, "tie_word_embeddings", True)
    name = "model.decoder.embed_tokens.weight" if tied else "lm_head.weight"
    weight = load(name, (d.vocabulary, d.width))
    ops: list[FloatOp] = []
    source = "x"
    if flag(config, "do_layer_norm_before", True) and not flag(config, "_remove_final_layer_norm", False):
        ops.append(_norm(load, "model.decoder.", "final_layer_norm", "x", "normed", d.width))
        source = "normed"
    ops.append(Dense("lm_head", source, "logits", weight, None))
    return FloatBlock("head", tuple(ops), "logits")


OPT = Family(
    model_types=("opt",),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.fc1", "mlp.fc2", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    activated=True,
    tokens="model.decoder.embed_tokens.weight",
)
