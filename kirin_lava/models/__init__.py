"""Model families, one file each, found by the `model_type` of a checkpoint."""

from __future__ import annotations

import reprlib

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.models.config import mapping, word
from kirin_lava.models.layout import Config, Family
from kirin_lava.models.llama import LLAMA
from kirin_lava.models.opt import OPT

__all__ = ["FAMILIES", "family_of"]

FAMILIES = (LLAMA, OPT)


def family_of(config: Config) -> Family:
    """The family that converts this config.

    Raises:
        UsageError: an entry that is missing or has a wrong type.
        UnsupportedError: an unknown `model_type`, a checkpoint that is quantised already, or a variant that the family
            cannot convert exactly; the message lists what is supported.
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
            return family
    raise UnsupportedError(f"model_type {kind!r} is not supported; supported are: {supported}")
