"""Print the table of families for docs/families.md: every type, what its layers are made of, how many variants are tested.

Run: python -m tools.family_table
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from kirin_lava.models import FAMILIES
from kirin_lava.models.layout import FloatBlock
from tests.encoder_models import ENCODER_VARIANTS, ENCODERS
from tests.variants import VARIANTS

_PLAIN = {"Dense", "Attention", "Slice", "Add"}


def _shape(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)


def operations(kind: str) -> str:
    """Names of the operations of a model of this type, in order, without those that every one has."""
    config: dict[str, Any] = AutoConfig.for_model(kind).to_dict()
    family = next(family for family in FAMILIES if kind in family.model_types)
    blocks: list[FloatBlock] = [family.block(config, 0, _shape), family.head(config, _shape)]
    names = [_named(op) for block in blocks for op in block.ops]
    return ", ".join(dict.fromkeys(name for name in names if name not in _PLAIN))


def _named(op: object) -> str:
    if type(op).__name__ == "Norm":
        return "LayerNorm" if getattr(op, "center", False) else "RMSNorm"
    return type(op).__name__


def main() -> None:
    """Print the table."""
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    tested = Counter([kind for kind, _ in VARIANTS] + [ENCODERS[kind][0].model_type for kind, _ in ENCODER_VARIANTS])
    rows = [("model_type", "beside dense layers and attention", "variants")]
    rows += [(kind, operations(kind), str(tested[kind])) for kind in kinds]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print(f" {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}")


if __name__ == "__main__":
    main()
