"""Where the error of a conversion comes from: signal-to-quantisation-noise of every dense layer's output.

`local` feeds each block the float original's hidden states, so that its error is its own; `total` is what is left of the signal
when both networks run from the first token on. Both in dB, 10 log10(sum y^2 / sum (y - y')^2).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from kirin_lava.base.integers import to_fixed, to_real
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops import Decode, Op
from kirin_lava.graph.ops.integer import IntegerDecode
from kirin_lava.graph.values import Value
from kirin_lava.models import float_model
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.models.layout import Dense, FloatOp
from kirin_lava.quantize.convert import rotary_of

__all__ = ["LayerError", "layer_errors", "worst_first"]


@dataclass(frozen=True)
class LayerError:
    """Error of one dense layer, in dB; infinite where nothing differs."""

    segment: str
    local_db: float
    total_db: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@torch.inference_mode()
def layer_errors(checkpoint: Checkpoint, model: Model, rows: list[Tensor]) -> list[LayerError]:
    """Errors of every dense layer that is read out, in order.

    Args:
        checkpoint: the float original. model: its conversion.
        rows: sequences of ids (L,), all of one length.
    """
    ids = torch.stack(rows)
    family, config = checkpoint.family, checkpoint.config
    rotary = rotary_of(checkpoint)
    embedding = family.embedding(config, checkpoint.load)
    exact = ours = float_model.embed(embedding, ids)
    positions = torch.arange(ids.shape[1])
    result = []
    for index, block in enumerate([*model.blocks, model.head]):
        head = block is model.head
        layer = family.head(config, checkpoint.load) if head else family.block(config, index, checkpoint.load)
        wanted: dict[str, Tensor] = {}

        def keep(op: FloatOp, values: dict[str, Tensor], wanted: dict[str, Tensor] = wanted) -> None:
            if isinstance(op, Dense):
                y = values[op.input] @ op.weight.T
                wanted[op.name] = y if op.bias is None else y + op.bias

        following = float_model.run_block(layer, exact, rotary, keep)
        local, _ = _outputs(model, block, exact, positions)
        total, ours = _outputs(model, block, ours, positions)
        exact = following
        result += [LayerError(f"{block.name}.{n}", _db(wanted[n], local[n]), _db(wanted[n], total[n])) for n in local]
    return result


def worst_first(errors: list[LayerError]) -> Table:
    """For people: the layer that loses most on its own is on top."""
    table = Table(title="signal to quantisation noise, dB")
    for column in ("segment", "local", "total"):
        table.add_column(column, justify="left" if column == "segment" else "right", no_wrap=True)
    for error in sorted(errors, key=lambda e: e.local_db):
        table.add_row(error.segment, f"{error.local_db:.2f}", f"{error.total_db:.2f}")
    return table


def _outputs(model: Model, block: Block, x: Tensor, positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    kept: dict[str, Tensor] = {}

    def keep(_: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, (Decode, IntegerDecode)) and op.scale is not None:
            value = values[op.output]
            assert isinstance(value, Tensor)
            real = to_real(value, op.fraction).float() if isinstance(op, IntegerDecode) else value.clone()
            kept[op.name.removesuffix(".decode")] = real

    if block.fraction is not None and x.is_floating_point():
        x = to_fixed(x, block.fraction)
    y = BlockExecutor(model.rotary, observer=keep).run(block, x, positions, Cache())
    return kept, y


def _db(y: Tensor, other: Tensor) -> float:
    noise = float((y - other).double().square().sum())
    signal = float(y.double().square().sum())
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)
