"""GPT-2: learned positions, LayerNorm with bias, GELU between the two feed-forward layers, matrices stored transposed.

x -> LayerNorm -> qkv -> attention -> o -> +x -> LayerNorm -> fc -> gelu -> proj -> +x
"""

from __future__ import annotations

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.ops import Add, Gelu
from kirin_lava.models.config import MOST_LAYERS, MOST_POSITIONS, Config, flag, positive, real, word
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load
from kirin_lava.models.parts import GELUS, Parts, head_width, slices

__all__ = ["GPT2"]

_PREFIX = "transformer."


def _check(config: Config) -> None:
    activation = word(config, "activation_function", "gelu_new")
    if activation not in GELUS:
        raise UnsupportedError(
            f"activation {activation!r} is not supported in this family; supported are: {', '.join(GELUS)}; of ReLU models: opt"
        )
    if flag(config, "add_cross_attention", False):
        raise UnsupportedError("attention to another text (add_cross_attention) is not supported; supported are: decoders")


def _dimensions(config: Config) -> Dimensions:
    width, heads = positive(config, "n_embd"), positive(config, "n_head")
    return Dimensions(
        layers=positive(config, "n_layer", most=MOST_LAYERS),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=head_width(config, "n_embd", "n_head"),
        hidden=positive(config, "n_inner", 4 * width),
        vocabulary=positive(config, "vocab_size"),
        max_positions=positive(config, "n_positions", 1024, MOST_POSITIONS),
    )


def _embedding(config: Config, load: Load) -> FloatEmbedding:
    d = _dimensions(config)
    tokens = load(f"{_PREFIX}wte.weight", (d.vocabulary, d.width))
    return FloatEmbedding(tokens, load(f"{_PREFIX}wpe.weight", (d.max_positions, d.width)))


def _parts(config: Config, load: Load, prefix: str) -> Parts:
    return Parts(load, f"{_PREFIX}{prefix}", real(config, "layer_norm_epsilon", 1e-5), center=True)


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d, read = _dimensions(config), _parts(config, load, f"h.{index}.")
    factor = d.head_dim**-0.5 if flag(config, "scale_attn_weights", True) else 1.0
    if flag(config, "scale_attn_by_inverse_layer_idx", False):
        factor /= index + 1
    exact = GELUS[word(config, "activation_function", "gelu_new")]
    ops: tuple[FloatOp, ...] = (
        read.norm("ln_1", "x", "attn.normed", d.width),
        read.transposed("attn.qkv", "attn.normed", "qkv", "attn.c_attn", 3 * d.width, d.width),
        *slices(d.width, d.width),
        Attention("attn", "q", "k", "v", "mixed", d.heads, d.heads, d.head_dim, factor),
        read.transposed("attn.o", "mixed", "attended", "attn.c_proj", d.width, d.width),
        Add("attn.residual", "x", "attended", "middle"),
        read.norm("ln_2", "middle", "mlp.normed", d.width),
        read.transposed("mlp.fc1", "mlp.normed", "wide", "mlp.c_fc", d.hidden, d.width),
        Gelu("mlp.gelu", "wide", "active", exact),
        read.transposed("mlp.fc2", "active", "fed", "mlp.c_proj", d.width, d.hidden),
        Add("mlp.residual", "middle", "fed", "y"),
    )
    return FloatBlock(f"blocks.{index}", ops, "y")


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    name = f"{_PREFIX}wte.weight" if flag(config, "tie_word_embeddings", True) else "lm_head.weight"
    ops: tuple[FloatOp, ...] = (
        _parts(config, load, "").norm("ln_f", "x", "normed", d.width),
        Dense("lm_head", "normed", "logits", load(name, (d.vocabulary, d.width)), None),
    )
    return FloatBlock("head", ops, "logits")


GPT2 = Family(
    model_types=("gpt2",),
    sites=("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.fc1", "mlp.fc2", "head.lm_head"),
    check=_check,
    dimensions=_dimensions,
    embedding=_embedding,
    block=_block,
    head=_head,
    tokens=f"{_PREFIX}wte.weight",
    prefix=_PREFIX,
    derived=(".attn.bias", ".attn.masked_bias"),  # the causal mask, which older files keep
    architectures=("GPT2LMHeadModel",),
)
