"""The float original that every ratio is measured against: loaded by transformers, and shown to be what was converted.

Two readings of one checkpoint meet here: that of transformers, which is what a user runs, and that of the family file, which is
what was converted. Either may be wrong (an entry of config.json that only one of them knows), and a ratio between two different
networks means nothing. So both run the first row of the text, and where their logits differ by more than float32 rounds,
nothing is evaluated.
"""

from __future__ import annotations

import inspect
import reprlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.graph.block import CLASSES, MASKED_LM, Embedding, Model
from kirin_lava.graph.ops import Norm
from kirin_lava.graph.ops.integer import IntegerNorm
from kirin_lava.models import float_model as twin
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.models.config import Config, rope_theta
from kirin_lava.models.rope import scaling_of
from kirin_lava.models.sources.folder import SafetensorsFolder
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.quantize.integers import norm_eps, whole_embedding, whole_rotary

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["load_encoder", "load_original", "require_converted", "require_same_logits", "twin_logits"]

_NOISE = 1e-3
"""Of the spread of the logits. Float32 gives 1e-5 or less on small models, more with depth."""
_TOKENS = 512  # of the row: what differs shows on it, and attention is quadratic
_SHAPES = (
    "attention_bias",
    "do_layer_norm_before",
    "head_dim",
    "hidden_act",
    "mlp_bias",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
)
"""Entries of which a network of the same shapes depends."""
_FREE = {"architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path"}


def load_original(checkpoint: Checkpoint, row: Tensor, device: str = "cpu") -> PreTrainedModel:
    """The original in float32, by transformers, on `device`.

    Args:
        row: (L,) ids on which its logits are compared with those of what is converted.

    Raises:
        UsageError: transformers cannot load it, or loads another network; names the entries of config.json.
    """
    from transformers import AutoModelForCausalLM

    return _loaded(checkpoint, AutoModelForCausalLM, row, device)


def load_encoder(checkpoint: Checkpoint, row: Tensor, device: str = "cpu") -> PreTrainedModel:
    """The same of an encoder, with the head that its config names."""
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

    kinds = {CLASSES: AutoModelForSequenceClassification, MASKED_LM: AutoModelForMaskedLM}
    return _loaded(checkpoint, kinds.get(checkpoint.facts()["head"], AutoModel), row, device)


def _loaded(checkpoint: Checkpoint, kind: Any, row: Tensor, device: str) -> PreTrainedModel:
    """The original by a class of transformers that finds the model."""
    from transformers import AutoConfig

    source = checkpoint.source
    folder = source.path if isinstance(source, SafetensorsFolder) else None
    try:
        if folder is not None:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            config = AutoConfig.for_model(**checkpoint.config)
        theta = rope_theta(checkpoint.config)
        if theta is not None and hasattr(config, "rope_theta"):  # transformers 4 does not look into rope_parameters
            config.rope_theta = theta
        if checkpoint.config.get("rope_parameters") and not getattr(config, "rope_scaling", None):
            config.rope_scaling = scaling_of(checkpoint.config)
        # Masks of sliding windows need a newer PyTorch than Lava has in the fused attention, not in the plain one.
        plain = {"attn_implementation": "eager"} if getattr(config, "sliding_window", None) else {}
        if folder is not None:
            loaded: PreTrainedModel = kind.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, trust_remote_code=False, **plain
            )
        else:
            loaded = _filled(checkpoint, config, plain)
    except KirinError:
        raise
    except Exception as error:  # transformers raises whatever its models raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"{checkpoint.path}: transformers cannot load the original, so there is nothing to compare with: {reason}"
        ) from None
    network = loaded.to(device).eval()
    require_same_logits(checkpoint, network, row)
    return network


def _filled(checkpoint: Checkpoint, config: PretrainedConfig, options: dict[str, str]) -> PreTrainedModel:
    """The network of transformers with the tensors of a file that it does not load by itself: GGUF.

    What it makes of a GGUF file needs another package, and holds all tensors twice; here it is one tensor at a time, each as it
    is converted.
    """
    from transformers import AutoModelForCausalLM
    from transformers.modeling_utils import no_init_weights

    with no_init_weights():
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    network.tie_weights()  # left out with the drawing of weights
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # a tied head is not among them
            parameter.copy_(checkpoint.load(name, tuple(parameter.shape)))
    return network


@torch.inference_mode()
def require_same_logits(checkpoint: Checkpoint, network: PreTrainedModel, row: Tensor) -> None:
    """Raise `UsageError` where a loaded network is not the one that is converted: other logits on a row (L,) of ids."""
    ids = row[:_TOKENS].unsqueeze(0)
    wanted = twin_logits(checkpoint, ids)[0].double()
    answer = network(ids.to(network.device))
    got = (answer.logits if hasattr(answer, "logits") else answer.last_hidden_state).double().cpu().view(-1, wanted.shape[-1])
    spread = float((wanted - wanted.mean(-1, keepdim=True)).norm())
    error = float((got - wanted).norm()) / max(spread, 1e-30) if got.shape == wanted.shape else float("inf")
    if not error <= _NOISE:
        raise UsageError(
            f"{checkpoint.path}: the original that transformers loads is not the network that is converted: on the first row "
            f"their logits differ by {100 * error:.3g} % of their spread, rounding explains {100 * _NOISE:g} %; "
            f"{_suspects(checkpoint.config, network.config)}: state them in config.json as transformers reads them"
        )


@torch.inference_mode()
def twin_logits(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """(B, L) ids -> (B, L, vocabulary) float32 of what is converted, or what else its head makes, see `Executor.forward`; one
    layer is in memory at a time."""
    family, config = checkpoint.family, checkpoint.config
    rotary = rotary_of(checkpoint)
    x = twin.embed(family.embedding(config, checkpoint.load), ids)
    for index in range(checkpoint.dimensions.layers):
        x = twin.run_block(family.block(config, index, checkpoint.load), x, rotary)
    if checkpoint.facts().get("head") == CLASSES:
        x = x[:, :1]
    return twin.run_block(family.head(config, checkpoint.load), x)


def require_converted(checkpoint: Checkpoint, model: Model, recorded: dict[str, str], named: bool) -> None:
    """Raise `UsageError` where a checkpoint is not the one that a bundle was made from.

    Args:
        model: of the bundle. recorded: digests of the checkpoint's files, from the manifest.
        named: the user named the checkpoint; its files may then be cut in another way, and what both hold in float is compared.
    """
    found = checkpoint.sha256()
    if found == recorded:
        return
    if not named:
        changed = sorted(name for name in {*found, *recorded} if found.get(name) != recorded.get(name))
        raise UsageError(
            f"{checkpoint.path} has changed since it was converted ({', '.join(changed)}): convert it again, or name the "
            "checkpoint that was converted (--original)"
        )
    other = _difference(checkpoint, model)
    if other is not None:
        raise UsageError(f"{checkpoint.path} is not the checkpoint that was converted: its {other}; name that one (--original)")


def _difference(checkpoint: Checkpoint, model: Model) -> str | None:
    config, family = checkpoint.config, checkpoint.family
    facts = {"model_type": config["model_type"], **vars(checkpoint.dimensions)}
    for name, value in facts.items():
        if model.facts.get(name, value) != value:
            return f"{name} is {value}, not {model.facts[name]}"
    embedding, rotary = family.embedding(config, checkpoint.load), rotary_of(checkpoint)
    tokens, turns = embedding.tokens.numpy(), None if rotary is None else (rotary[0].numpy(), rotary[1].numpy())
    if model.embedding.fraction is not None:
        positions = None if embedding.positions is None else embedding.positions.numpy()
        tokens, turns = whole_embedding(Embedding(tokens, positions)).tokens, whole_rotary(turns)
    if not np.array_equal(tokens, model.embedding.tokens):
        return "token embeddings differ"
    if turns is not None and model.rotary is not None and not np.array_equal(turns[1], model.rotary[1]):
        return "rotary embedding differs (rope_theta)"
    norms = {op.name: op for op in family.block(config, 0, checkpoint.load).ops if isinstance(op, Norm)}
    for op in model.blocks[0].ops:
        if isinstance(op, Norm) and op.name in norms and norms[op.name].eps != op.eps:
            return f"{op.name} has an epsilon of {norms[op.name].eps}, not {op.eps}"
        if isinstance(op, IntegerNorm) and op.name in norms:
            wanted = norm_eps(norms[op.name], op.input_fraction)
            if (wanted.mantissa, wanted.shift) != (op.eps_mantissa, op.eps_shift):
                return f"{op.name} has an epsilon of {norms[op.name].eps}, not the one of the bundle"
    return None


def _suspects(config: Config, loaded: PretrainedConfig) -> str:
    """Entries that transformers does not read, reads as something else, or takes by default."""
    from transformers import PretrainedConfig, __version__

    known = {name for kind in (type(loaded), PretrainedConfig) for name in inspect.signature(kind.__init__).parameters}
    values = loaded.to_dict()
    found = [f"{name} {_short(value)} is not read" for name, value in config.items() if name not in known | _FREE]
    found += [
        f"{name} is {_short(config.get(name, 'absent'))} there and {_short(values[name])} in transformers"
        for name in _SHAPES
        if name in values and config.get(name, "absent") != values[name]
    ]
    return f"entries of config.json that transformers {__version__} may read otherwise: {', '.join(found) or 'none is known'}"


def _short(value: Any) -> str:
    return value if value == "absent" else reprlib.repr(value)
