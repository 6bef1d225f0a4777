"""Shifts that would lose a number at its upper end: the compiler does not ask for them, and a bundle that does is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import MESSAGE_LIMIT
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops.integer.functions import exp2_weights, gated, multiplier_of, normalized, probabilities
from kirin_lava.quantize.integers import Scales, to_integers
from kirin_lava.spikes.tables import table
from tests.processes.blocks import WIDTH, integer_tables, llama_block, opt_block


@pytest.mark.parametrize("block", [llama_block(), opt_block(fires=False)], ids=lambda block: block.name)
def test_values_that_are_always_small_get_no_finer_units_than_they_are_made_from(block: Block) -> None:
    for peak in (0.0, 1e-9):
        small = {op.output: peak for op in block.ops} | {"x": 1.0}
        plain = tuple(replace(cast(Any, op), bias=None) if hasattr(op, "bias") else op for op in block.ops)
        made = to_integers(replace(block, ops=plain), Scales(small, 4))
        made.check("here")
        zeros = BlockExecutor(integer_tables()).run(made, torch.zeros(1, 3, WIDTH, dtype=torch.int64), torch.arange(3), Cache())
        assert not zeros.any()


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("IntegerRotary", {"fraction": 80}, "a product is shifted by"),
        ("IntegerGate", {"fraction": 90}, "a product is shifted by"),
        ("IntegerNorm", {"fraction": 90}, "a product is shifted by"),
        ("IntegerAdd", {"fraction": 90}, "a term is shifted by"),
        ("IntegerDecode", {"fraction": 90}, "a sum is shifted by -"),
    ],
)
def test_a_bundle_that_shifts_too_far_is_refused(kind: str, change: dict[str, Any], told: str) -> None:
    block = llama_block()
    made = to_integers(block, Scales({op.output: 50.0 for op in block.ops} | {"x": 9.0}, 14))
    index = next(i for i, op in enumerate(made.ops) if type(op).__name__ == kind and getattr(op, "mantissa", None) is None)
    wrong = replace(cast(Any, made.ops[index]), **change)
    with pytest.raises(UsageError, match=told):
        replace(made, ops=(*made.ops[:index], wrong, *made.ops[index + 1 :])).check("here")


def test_the_largest_numbers_of_all_stay_within_64_bits() -> None:
    """What the bounds of the docstrings promise, with every input at its limit."""
    most = MESSAGE_LIMIT - 1
    for width in (1, 8, 1 << 17):
        row = torch.full((1, width), most)
        row[0, ::2] = -most
        for center in (False, True):
            for eps in (2.0**-60, 1.0, 2.0**60):
                n = normalized(row, multiplier_of(eps), table("root"), center)
                exact = row.double() * (width if center else 1)
                exact = exact / (exact.square().sum(-1, keepdim=True) + eps).sqrt()
                if width > 1:
                    assert (n.double() * 2.0**-28 - exact).abs().max() < 2.0**-18
    u = torch.tensor([[most * (2**24 - 1), -most * (2**24 - 1)]])
    for shift in range(0, 120, 7):
        weights = exp2_weights(u, torch.tensor([[2**24 - 1]]), multiplier_of(2.0**-shift), table("exp2"), None)
        p = probabilities(weights, torch.tensor(2**24 - 1), table("reciprocal"), 1)
        assert int(p.min()) >= 0 and int(p.sum()) <= 2**23 * (1 + 2**-19)
    for fraction in (-16, 0, 12, 22, 40):
        y = gated(torch.tensor([most, -most]), fraction, table("silu"))
        assert int(y[0]) > 0 and abs(int(y[0])) * most < 2**62
