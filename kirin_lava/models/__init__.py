"""Model families, one file each, found by the `model_type` of a checkpoint."""

from __future__ import annotations

import reprlib

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.models.bert import BERT, DISTILBERT, ROBERTA
from kirin_lava.models.config import mapping, word, words
from kirin_lava.models.gemma import GEMMA
from kirin_lava.models.gpt2 import GPT2
from kirin_lava.models.gpt_neox import GPT_NEOX
from kirin_lava.models.layout import Config, Family
from kirin_lava.models.llama import LLAMA
from kirin_lava.models.missing import missing_from
from kirin_lava.models.opt import OPT

__all__ = ["FAMILIES", "family_of"]

FAMILIES = (LLAMA, OPT, GPT2, GPT_NEOX, GEMMA, BERT, ROBERTA, DISTILBERT)


def family_of(config: Config) -> Family:
    """The family that converts this config.

    Raises:
        UsageError: an entry that is missing or has a wrong type.
        UnsupportedError: an unknown `model_type`, a checkpoint that is quantised already, `architectures` that end in another
            head, or a variant that the family cannot convert exactly; the message lists what is supported.
    """
    supported = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    kind = word(config, "model_type")
    quantised = mapping(config, "quantization_config")
    if quantised:
        method = reprlib.repr(quantised.get("quant_method", "unknown method"))
        raise UnsupportedError(
            f"the checkpoint is quantised already ({method}); supported are: float checkpoints of {supported}; "
            "convert the original one"
        )
    for family in FAMILIES:
        if kind in family.model_types:
            family.check(config)
            family.dimensions(config)
            _check_architectures(config, kind, family)
            return family
    raise UnsupportedError(f"model_type {kind!r} is not supported{missing_from(kind)}; supported are: {supported}")


def _check_architectures(config: Config, kind: str, family: Family) -> None:
    """Where `architectures` names what was saved, it is a language model of this type or its bare decoder, or an encoder with a
    head that is known.

    Where there is none, the checkpoint is taken for a language model, as transformers takes it, or for a bare encoder; a head
    that was left in the files is found by `Checkpoint`.
    """
    known = {name.lower() for name in family.architectures}
    if not family.encoder:
        known |= {kind.replace("_", "") + end for end in ("forcausallm", "model")}
    for name in words(config, "architectures"):
        if name.lower() in known:
            continue
        if family.encoder:
            supported = ", ".join(family.architectures)
            raise UnsupportedError(
                f"architectures names {name[:80]!r}, whose head is not converted; supported are, of this type: {supported}"
            )
        raise UnsupportedError(
            f"architectures names {name[:80]!r}, whose head or layers are not those of a {kind} language model; "
            f"supported are: language models (such as {kind.title()}ForCausalLM) and their decoders ({kind.title()}Model)"
        )
