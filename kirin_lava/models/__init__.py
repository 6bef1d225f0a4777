"""Model families, one file each, found by the `model_type` of a checkpoint."""

from __future__ import annotations

from kirin_lava.errors import UnsupportedError
from kirin_lava.models.layout import Config, Family
from kirin_lava.models.llama import LLAMA
from kirin_lava.models.opt import OPT

__all__ = ["FAMILIES", "family_of"]

FAMILIES = (LLAMA, OPT)


def family_of(config: Config) -> Family:
    """The family that converts this config.

    Raises:
        UnsupportedError: an unknown `model_type`, a checkpoint that is quantised already, or a variant that the family
            cannot convert exactly; the message lists what is supported.
    """
    supported = [kind for family in FAMILIES for kind in family.model_types]
    kind = config.get("model_type")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise UnsupportedError(f"the checkpoint is quantised already ({method}); convert the original float checkpoint")
    for family in FAMILIES:
        if kind in family.model_types:
            family.check(config)
            family.dimensions(config)
            return family
    raise UnsupportedError(f"model_type {kind!r} is not supported; supported are: {', '.join(supported)}")
