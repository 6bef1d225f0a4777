"""Metadata of a GGUF file as the entries of a config.json, and its names of tensors as those of transformers.

Read strictly: an entry of the architecture that is not known here may change the network, so it is refused, never passed over.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.models.config import Config
from kirin_lava.models.sources.gguf_header import GgufHeader

__all__ = ["ARCHITECTURES", "config_of", "generation_of", "hf_name", "is_turned"]

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
ARCHITECTURES |= {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""`general.architecture`, and the class of transformers. Files of Mistral models state `llama`: the two networks are one."""

_SIZES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OTHERS = {"attention.head_count_kv": "num_key_value_heads", "vocab_size": "vocab_size"}
_READ = {  # below, one by one
    "attention.causal",
    "attention.key_length",
    "attention.sliding_window",
    "attention.value_length",
    "expert_count",
    "expert_used_count",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
}
_WITHOUT_EFFECT = {"tensor_data_layout"}  # says that the rows of q and k are turned, as they are in all such files

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.(weight|bias)")


def hf_name(name: str) -> str:
    """The name of a tensor in transformers; one that has none stays as it is."""
    found = _BLOCK.fullmatch(name)
    if found is not None and found[2] in _PARTS:
        return f"model.layers.{found[1]}.{_PARTS[found[2]]}.{found[3]}"
    return _WHOLE.get(name, name)


def is_turned(header: GgufHeader, name: str) -> bool:
    """Whether the rows of a tensor are those of a llama file's q and k, which pair neighbours for the rotary embedding."""
    return header.text("general.architecture") in ("llama", "mistral") and bool(re.search(r"\.attn_[qk]\.(weight|bias)$", name))


def config_of(header: GgufHeader) -> Config:
    """What config.json would state; sizes are checked by whoever reads them.

    Raises:
        UnsupportedError: another architecture, no model, an entry that would change the network in a way that is not known.
        UsageError: an entry that must be there is missing, or has a wrong type.
    """
    kind = header.text("general.architecture")
    supported = ", ".join(ARCHITECTURES)
    if kind not in ARCHITECTURES:
        named = f"states the architecture {reprlib.repr(kind)}" if kind else "states no general.architecture"
        raise UnsupportedError(f"{header.path} {named}; supported are: GGUF files of {supported}")
    what = header.text("general.type", "model")
    if what != "model":
        raise UnsupportedError(
            f"{header.path} holds {reprlib.repr(what)}, not a whole model; supported are: models of {supported}"
        )
    own = {key.removeprefix(f"{kind}."): value for key, value in header.values.items() if key.startswith(f"{kind}.")}
    missing = [f"{kind}.{key}" for key in _SIZES if key not in own]
    if missing:
        raise UsageError(f"{header.path} states no {missing[0]}: its metadata is incomplete, fetch it again or convert it anew")
    for key, value in own.items():
        known = {*_SIZES, *_OTHERS, *_READ, *_WITHOUT_EFFECT}
        if key not in known and not key.startswith("rope.scaling."):
            raise UnsupportedError(
                f"{header.path} states {kind}.{key} = {reprlib.repr(value)}, which may change the network and is not known; "
                f"supported are: plain networks of {supported}"
            )
    config: Config = {"architectures": [ARCHITECTURES[kind]], "model_type": kind, "hidden_act": "silu"}
    config |= {name: own[key] for key, name in {**_SIZES, **_OTHERS}.items() if key in own}
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config["rope_theta"] = header.real(f"{kind}.rope.freq_base", 10000.0)
    config |= _attention(header, kind, config) | _scaling(header, kind) | _tokens(header)
    embedding = header.tensors.get("token_embd.weight")
    if "vocab_size" not in config and embedding is not None:
        config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    if kind == "llama":
        config["attention_bias"] = "blk.0.attn_output.bias" in header.tensors
        config["mlp_bias"] = "blk.0.ffn_down.bias" in header.tensors
    return config


def generation_of(header: GgufHeader) -> dict[str, Any]:
    """What generation_config.json would state: tokens that begin, end and fill; a text ends at the end of a turn, too."""
    found = {name: value for name, value in _tokens(header).items() if name != "unk_token_id"}
    ends = [header.count(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ids = list(dict.fromkeys(end for end in ends if end is not None))
    return found | ({"eos_token_id": ids[0] if len(ids) == 1 else ids} if ids else {})


def _attention(header: GgufHeader, kind: str, config: Config) -> Config:
    """The width of a head, and what a family refuses where it is not plain: experts, windows, part of a head turned."""
    experts = header.count(f"{kind}.expert_count", 0)
    if experts:
        raise UnsupportedError(f"{header.path} is a mixture of {experts} experts; supported are: networks without experts")
    if not header.flag(f"{kind}.attention.causal", True):
        raise UnsupportedError(f"{header.path} attends to later tokens; supported are: causal language models")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0
    head = header.count(f"{kind}.attention.key_length", width // heads if whole else None)
    value = header.count(f"{kind}.attention.value_length", head)
    if value != head:
        raise UnsupportedError(f"{header.path} has keys of width {head} and values of width {value}; supported are: equal ones")
    found: Config = {"head_dim": head}
    turned = header.count(f"{kind}.rope.dimension_count", head)
    if turned != head and head and turned:
        found["partial_rotary_factor"] = turned / head
    window = header.count(f"{kind}.attention.sliding_window", 0)
    if kind == "mistral":
        found["sliding_window"] = window or None
    elif window and window < (header.count(f"{kind}.context_length") or 0):
        raise UnsupportedError(
            f"{header.path}: sliding-window attention is not supported in a GGUF file of {kind}, which does not state its "
            "layers; supported are: files of mistral, and the folder with config.json and safetensors that it was made from"
        )
    return found


def _scaling(header: GgufHeader, kind: str) -> Config:
    """The plain rotary embedding: scalings of such files state other things than a config.json, or factors in a tensor."""
    form = header.text(f"{kind}.rope.scaling.type", "none")
    if header.real(f"{kind}.rope.scale_linear", 1.0) != 1.0:
        form = "linear"
    if form == "none" and "rope_freqs.weight" in header.tensors:
        form = "llama3"  # stated by its factors alone
    if form != "none":
        raise UnsupportedError(
            f"{header.path}: rope scaling {form!r} is not supported in a GGUF file; supported are: files without, and the "
            "folder with config.json and safetensors that the file was made from"
        )
    return {"rope_scaling": None}


def _tokens(header: GgufHeader) -> Config:
    """Ids of special tokens."""
    names = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    ids = {f"{short}_token_id": header.count(f"tokenizer.ggml.{name}_token_id") for name, short in names.items()}
    return {name: value for name, value in ids.items() if value is not None}
