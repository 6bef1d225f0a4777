"""Model types of transformers that do not convert: the operation that is missing, and the nearest type that works."""

from __future__ import annotations

__all__ = ["missing_from"]

_EXPERTS = "a router that sends tokens to experts"
_DISTANCE = "a bias of scores by distance (ALiBi)"
_NEIGHBOURS = "a rotary embedding of neighbouring pairs, or another order in a layer"
_TWO = "attention of a decoder to an encoder"
_STATE = "a recurrent layer (state space)"
_IMAGES = "an image encoder"
_RELATIVE = "scores that depend on the distance of two tokens"

_MISSING = {
    "bloom": (_DISTANCE, "gpt_neox"),
    "mpt": (_DISTANCE, "gpt_neox"),
    "falcon": ("one key head for all, or a bias of scores by distance", "gpt_neox"),
    "gptj": (_NEIGHBOURS, "gpt_neox"),
    "codegen": (_NEIGHBOURS, "gpt_neox"),
    "gpt_neo": ("attention of another form in every second layer", "gpt2"),
    "gpt_bigcode": ("one key head for all beside GPT-2's matrices", "gpt2"),
    "starcoder2": ("LayerNorm beside a rotary embedding and grouped keys", "gpt_neox"),
    "phi": ("one norm for both halves of a layer", "gpt_neox"),
    "stablelm": ("LayerNorm beside a gated feed-forward", "llama"),
    "cohere": ("both halves of a layer behind one norm", "llama"),
    "olmo": ("a norm without weights", "llama"),
    "olmo2": ("norms behind attention and feed-forward alone", "llama"),
    "glm": (_NEIGHBOURS, "phi3"),
    "gpt_oss": (_EXPERTS, "qwen3"),
    "mixtral": (_EXPERTS, "mistral"),
    "phimoe": (_EXPERTS, "phi3"),
    "qwen2_moe": (_EXPERTS, "qwen2"),
    "qwen3_moe": (_EXPERTS, "qwen3"),
    "granitemoe": (_EXPERTS, "granite"),
    "olmoe": (_EXPERTS, "llama"),
    "deepseek_v2": (_EXPERTS, "llama"),
    "deepseek_v3": (_EXPERTS, "llama"),
    "mamba": (_STATE, "gpt_neox"),
    "mamba2": (_STATE, "gpt_neox"),
    "recurrent_gemma": (_STATE, "gemma2"),
    "rwkv": (_STATE, "gpt_neox"),
    "albert": ("embeddings narrower than the layers, which share one set of weights", "bert"),
    "electra": ("a head that tells words apart, or embeddings narrower than the layers", "bert"),
    "mpnet": (_RELATIVE, "bert"),
    "deberta": (_RELATIVE, "bert"),
    "deberta-v2": (_RELATIVE, "bert"),
    "modernbert": ("attention to neighbours, both ways, with a rotary embedding", "bert"),
    "nomic_bert": ("attention both ways with a rotary embedding", "bert"),
    "t5": (_TWO, "gpt2"),
    "bart": (_TWO, "opt"),
    "gemma3": (_IMAGES, "gemma3_text"),
    "llama4": (_EXPERTS, "llama"),
    "mllama": (_IMAGES, "llama"),
    "llava": (_IMAGES, "llama"),
    "qwen2_vl": (_IMAGES, "qwen2"),
    "qwen2_5_vl": (_IMAGES, "qwen2"),
}


def missing_from(kind: str) -> str:
    """What a `model_type` lacks here, and the nearest that works, for a message; empty where nobody has looked."""
    if kind not in _MISSING:
        return ""
    operation, nearest = _MISSING[kind]
    return f" (missing: {operation}; the nearest that works is {nearest})"
