"""Encoders: BERT (and MiniLM, which is one), RoBERTa and XLM-RoBERTa, DistilBERT. Attention looks both ways.

tokens + positions + type 0 -> LayerNorm ->
x -> qkv -> attention -> o -> +x -> LayerNorm -> fc1 -> gelu -> fc2 -> +x -> LayerNorm        (every layer)

The norm of the embedding is the first operation of the first layer, so that a look-up stays a look-up. Texts have one segment:
the row of token type 0 is added to every position. `architectures` names the head:

    ...Model                        none: hidden states, which `kirin-lava embed` makes one vector of
    ...ForMaskedLM                  dense -> gelu -> LayerNorm -> logits of every token
    ...ForSequenceClassification    dense -> tanh (DistilBERT: ReLU) -> logits of the classes, of the first token alone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.block import CLASSES, MASKED_LM, STATES
from kirin_lava.graph.ops import Add, Gelu, HostOp, Relu, SoftCap
from kirin_lava.models.config import MOST_LAYERS, MOST_POSITIONS, Config, ConfigError, flag, positive, real, word, words
from kirin_lava.models.layout import Attention, Dense, Dimensions, Family, FloatBlock, FloatEmbedding, FloatOp, Load
from kirin_lava.models.parts import GELUS, Parts, head_width, slices

__all__ = ["BERT", "DISTILBERT", "ROBERTA", "head_of"]

_HEADS = {"Model": STATES, "ForMaskedLM": MASKED_LM, "ForPreTraining": MASKED_LM, "ForSequenceClassification": CLASSES}
_PADDING = 1  # RoBERTa's id of padding, behind which its positions begin
_MOST_CLASSES = 1 << 16


@dataclass(frozen=True)
class _Names:
    """What a family calls its parts.

    Attributes:
        title: of its classes in transformers. prefix: of the encoder. layer: of a layer, before its number.
        qkv, o, fc1, fc2: dense layers of a layer. norms: behind its attention, and behind the two dense layers after it.
        types: whether there are token types. unused: first rows of the position table, which no text uses.
        width, heads, layers, hidden, activation: entries of the config.
        transform, transform_norm, decoder, decoder_bias: of the masked language model. classes: dense layers of the classes.
    """

    title: str
    prefix: str
    layer: str
    qkv: tuple[str, str, str]
    o: str
    fc1: str
    fc2: str
    norms: tuple[str, str]
    transform: str
    transform_norm: str
    decoder: str
    decoder_bias: str
    classes: tuple[str, str]
    types: bool = True
    unused: int = 0
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    hidden: str = "intermediate_size"
    activation: str = "hidden_act"


_BERT = _Names(
    title="Bert",
    prefix="bert.",
    layer="encoder.layer.",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    o="attention.output.dense",
    fc1="intermediate.dense",
    fc2="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    transform="cls.predictions.transform.dense",
    transform_norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder.weight",
    decoder_bias="cls.predictions.bias",
    classes=("bert.pooler.dense", "classifier"),
)
_ROBERTA = _Names(
    title="Roberta",
    prefix="roberta.",
    layer=_BERT.layer,
    qkv=_BERT.qkv,
    o=_BERT.o,
    fc1=_BERT.fc1,
    fc2=_BERT.fc2,
    norms=_BERT.norms,
    transform="lm_head.dense",
    transform_norm="lm_head.layer_norm",
    decoder="lm_head.decoder.weight",
    decoder_bias="lm_head.bias",
    classes=("classifier.dense", "classifier.out_proj"),
    unused=_PADDING + 1,
)
_DISTILBERT = _Names(
    title="DistilBert",
    prefix="distilbert.",
    layer="transformer.layer.",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    o="attention.out_lin",
    fc1="ffn.lin1",
    fc2="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    transform="vocab_transform",
    transform_norm="vocab_layer_norm",
    decoder="vocab_projector.weight",
    decoder_bias="vocab_projector.bias",
    classes=("pre_classifier", "classifier"),
    types=False,
    width="dim",
    heads="n_heads",
    layers="n_layers",
    hidden="hidden_dim",
    activation="activation",
)


def head_of(config: Config) -> str:
    """`STATES`, `MASKED_LM` or `CLASSES`, as `architectures` says; states where nothing is said."""
    named = words(config, "architectures")
    ends = [kind for end, kind in _HEADS.items() if named and named[0].endswith(end)]
    return ends[-1] if ends else STATES


def _check(names: _Names, config: Config) -> None:
    activation = word(config, names.activation, "gelu")
    if activation not in {*GELUS, "relu"}:
        raise UnsupportedError(
            f"activation {activation!r} is not supported in this family; supported are: {', '.join(GELUS)}, relu"
        )
    position = word(config, "position_embedding_type", "absolute")
    if position != "absolute":
        raise UnsupportedError(f"position_embedding_type {position!r} is not supported; supported is: absolute")
    for key, what in (("is_decoder", "decoders"), ("add_cross_attention", "attention to another text")):
        if flag(config, key, False):
            raise UnsupportedError(f"{key} is true: {what} of this family are not supported; supported are: encoders")
    width = positive(config, names.width)
    for key in ("embedding_size", "emb_dim"):
        if positive(config, key, width) != width:
            raise UnsupportedError(f"{key} {config[key]} differs from {names.width} {width}; supported are: equal ones")


def _dimensions(names: _Names, config: Config) -> Dimensions:
    heads, rows = positive(config, names.heads), positive(config, "max_position_embeddings", 512, MOST_POSITIONS)
    if rows <= names.unused:
        raise ConfigError(f"max_position_embeddings is {rows}, the first {names.unused} of which no text uses; fetch it again")
    return Dimensions(
        layers=positive(config, names.layers, most=MOST_LAYERS),
        width=positive(config, names.width),
        heads=heads,
        kv_heads=heads,
        head_dim=head_width(config, names.width, names.heads),
        hidden=positive(config, names.hidden),
        vocabulary=positive(config, "vocab_size"),
        max_positions=rows - names.unused,
    )


def _parts(names: _Names, config: Config, load: Load, prefix: str) -> Parts:
    eps = real(config, "layer_norm_eps", 1e-12) if names.types else 1e-12  # DistilBERT's config has no entry for it
    return Parts(load, prefix, eps, center=True)


def _embedding(names: _Names, config: Config, load: Load) -> FloatEmbedding:
    d, prefix = _dimensions(names, config), f"{names.prefix}embeddings."
    tokens = load(f"{prefix}word_embeddings.weight", (d.vocabulary, d.width))
    positions = load(f"{prefix}position_embeddings.weight", (d.max_positions + names.unused, d.width))
    if names.types:
        types = positive(config, "type_vocab_size", 2)
        positions = positions + load(f"{prefix}token_type_embeddings.weight", (types, d.width))[:1]
    return FloatEmbedding(tokens, positions, names.unused)


def _activation(names: _Names, config: Config, input: str, output: str, part: str) -> HostOp:
    activation = word(config, names.activation, "gelu")
    if activation == "relu":
        return Relu(f"{part}.relu", input, output)
    return Gelu(f"{part}.gelu", input, output, GELUS[activation])


def _block(names: _Names, config: Config, index: int, load: Load) -> FloatBlock:
    d = _dimensions(names, config)
    read = _parts(names, config, load, f"{names.prefix}{names.layer}{index}.")
    first: list[FloatOp] = []
    source = "x"
    if index == 0:
        outer, source = _parts(names, config, load, names.prefix), "embedded"
        first.append(outer.norm("embeddings.LayerNorm", "x", source, d.width))
    ops: list[FloatOp] = [
        *first,
        read.dense("attn.qkv", source, "qkv", dict.fromkeys(names.qkv, d.width), d.width, True),
        *slices(d.width, d.width),
        Attention("attn", "q", "k", "v", "mixed", d.heads, d.heads, d.head_dim, causal=False),
        read.dense("attn.o", "mixed", "attended", {names.o: d.width}, d.width, True),
        Add("attn.residual", source, "attended", "summed"),
        read.norm(names.norms[0], "summed", "middle", d.width),
        read.dense("mlp.fc1", "middle", "wide", {names.fc1: d.hidden}, d.width, True),
        _activation(names, config, "wide", "active", "mlp"),
        read.dense("mlp.fc2", "active", "fed", {names.fc2: d.width}, d.hidden, True),
        Add("mlp.residual", "middle", "fed", "resumed"),
        read.norm(names.norms[1], "resumed", "y", d.width),
    ]
    return FloatBlock(f"blocks.{index}", tuple(ops), "y")


def _head(names: _Names, config: Config, load: Load) -> FloatBlock:
    d, kind = _dimensions(names, config), head_of(config)
    read = _parts(names, config, load, "")
    if kind == STATES:
        return FloatBlock("head", (), "x")
    if kind == CLASSES:
        first, last = names.classes
        bent: HostOp = (
            SoftCap("pooler.tanh", "pooled", "active", 1.0) if names.types else Relu("pooler.relu", "pooled", "active")
        )
        ops: tuple[FloatOp, ...] = (
            read.dense("pooler", "x", "pooled", {first: d.width}, d.width, True),
            bent,
            read.dense("classifier", "active", "logits", {last: _classes(config)}, d.width, True),
        )
        return FloatBlock("head", ops, "logits")
    tied = flag(config, "tie_word_embeddings", True)
    weight = load(f"{names.prefix}embeddings.word_embeddings.weight" if tied else names.decoder, (d.vocabulary, d.width))
    gelu = Gelu("transform.gelu", "turned", "active", True) if names is _ROBERTA else None  # whatever its config says
    ops = (
        read.dense("transform", "x", "turned", {names.transform: d.width}, d.width, True),
        gelu or _activation(names, config, "turned", "active", "transform"),
        read.norm(names.transform_norm, "active", "normed", d.width),
        Dense("lm_head", "normed", "logits", weight, load(names.decoder_bias, (d.vocabulary,))),
    )
    return FloatBlock("head", ops, "logits")


def _classes(config: Config) -> int:
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) and labels else positive(config, "num_labels", 2, _MOST_CLASSES)


def _facts(names: _Names, config: Config) -> dict[str, Any]:
    kind, d = head_of(config), _dimensions(names, config)
    outputs = {STATES: d.width, MASKED_LM: d.vocabulary}.get(kind)
    if outputs is not None:
        return {"head": kind, "outputs": outputs}
    labels = config.get("id2label")
    told = [str(labels[key]) for key in sorted(labels, key=int)] if isinstance(labels, dict) else []
    return {"head": kind, "outputs": _classes(config), "labels": told}


def _spare(names: _Names, config: Config, key: str) -> bool:
    """Whether a tensor belongs to a head that the checkpoint has beside the one that is converted."""
    kind, plain = head_of(config), key.removeprefix(names.prefix)
    if plain == "embeddings.position_ids":
        return True
    heads = {
        MASKED_LM: (names.transform, names.transform_norm, names.decoder, names.decoder_bias, "cls.", "lm_head."),
        CLASSES: tuple(part for part in names.classes if not part.startswith(names.prefix)),
    }
    others = [start for other, starts in heads.items() if other != kind for start in starts]
    if kind == MASKED_LM:
        others += ["cls.seq_relationship."]
    pooler = plain.startswith("pooler.") and (kind != CLASSES or names is not _BERT)
    return pooler or key.startswith(tuple(others))


def _bound(names: _Names, function: Callable[..., Any]) -> Callable[..., Any]:
    return partial(function, names)


def _family(names: _Names, *model_types: str) -> Family:
    titles = [names.title] if names is not _ROBERTA else ["Roberta", "XLMRoberta"]
    return Family(
        model_types=model_types,
        sites=(
            *("attn.qkv", "attn.q", "attn.p", "attn.o", "mlp.fc1", "mlp.fc2"),
            *("head.transform", "head.lm_head", "head.pooler", "head.classifier"),
        ),
        check=_bound(names, _check),
        dimensions=_bound(names, _dimensions),
        embedding=_bound(names, _embedding),
        block=_bound(names, _block),
        head=_bound(names, _head),
        tokens=f"{names.prefix}embeddings.word_embeddings.weight",
        lm_head=names.decoder,
        prefix=names.prefix,
        derived=(),
        architectures=tuple(f"{title}{end}" for title in titles for end in _HEADS),
        encoder=True,
        facts=_bound(names, _facts),
        spare=_bound(names, _spare),
        older=(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
        copies=((names.decoder.replace("weight", "bias"), names.decoder_bias),),
    )


BERT = _family(_BERT, "bert")
ROBERTA = _family(_ROBERTA, "roberta", "xlm-roberta")
DISTILBERT = _family(_DISTILBERT, "distilbert")
