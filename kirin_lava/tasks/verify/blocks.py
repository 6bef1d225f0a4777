"""Verification of whole blocks and of the whole model: the spiking network on Lava against the integer executor.

Level block: real text runs through the network of every block, fed with the executor's hidden states; the integers at every
port (input codes, membranes, cached keys and values) and the bits of the block's result are compared, and the spikes and
outliers counted on Lava's connections with those of the codes.
Level model: Lava's blocks feed each other, from the embedding to the logits, and generate; logits and tokens are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.integers import rescaled
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor, cached_name
from kirin_lava.graph.ops import CoreOp, Linear, Mix, Op
from kirin_lava.graph.parts import sums_by_part
from kirin_lava.graph.values import Array, Codes, Value, codes_in, tensor_in
from kirin_lava.models.text import EVALUATION_TEXT, read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.processes.runtime import run_job
from kirin_lava.tasks.sampling import Sampling, choose
from kirin_lava.tasks.verify.result import Found, Row, Verification
from kirin_lava.tasks.verify.walk import Walk

__all__ = ["lava_logits", "real_tokens", "run_block_job", "verify_blocks", "verify_model"]

Progress = Callable[[str, int, int], None]
Int64 = npt.NDArray[np.int64]

_NEW_TOKENS = 20


def run_block_job(block: Block, x: Array, rotary: tuple[Array, Array] | None) -> Any:
    """Run (tokens, width) through a block's network; for `runtime.run_job`. Returns a `processes.block.BlockRun`."""
    from kirin_lava.processes.block import build_block

    with build_block(block, len(x), rotary, probe=True) as network:
        return network.run(x)


def real_tokens(bundle: Bundle, count: int) -> Tensor:
    """The first (count,) ids of the evaluation text that comes with the program, in the model's own tokens."""
    rows = token_rows(load_tokenizer(bundle.path), read_text(EVALUATION_TEXT), min(count, bundle.manifest["max_positions"]))
    return rows[0]


def verify_blocks(bundle: Bundle, walk: Walk, result: Verification, tokens: int, timeout: float | None) -> None:
    """Level block: the blocks of a walk, one in memory at a time. Where the layers before are not in the bundle, its first one
    is fed with the embedding of the text: what a block computes is exact on any input."""
    (embedding, rotary), m = bundle.frame(), bundle.manifest
    ids = real_tokens(bundle, tokens)
    nothing = Block("head", (), "x", m["facts"]["width"])
    x = Executor(Model(embedding, (), nothing, rotary, m["max_positions"], m["facts"])).embed(ids.unsqueeze(0))
    positions = torch.arange(len(ids))
    last, units = walk.todo[-1] if walk.todo else None, embedding.fraction
    for name in bundle.block_names if last else ():
        block, kept = bundle.block(name), dict[str, Int64]()
        if units is not None and block.fraction is not None:
            x = rescaled(x, units, block.fraction)
        units = block.ports[block.output].fraction
        watch = _keep(kept) if name in walk.todo else None
        y = BlockExecutor(rotary, observer=watch).run(block, x, positions, Cache())
        if name in walk.todo:
            walk.begin(name)
            walk.add(name, _compare_block(result, block, x[0].numpy(), y[0].numpy(), kept, rotary, timeout))
        if name == last:
            break
        x = y
    walk.end()


def _compare_block(
    result: Verification,
    block: Block,
    x: Array,
    y: Array,
    kept: dict[str, Int64],
    rotary: tuple[Array, Array] | None,
    timeout: float | None,
) -> Found:
    """A block's network on Lava against the executor: (tokens, width) inputs and results, and integers at its ports."""
    tables = None if rotary is None else (rotary[0][: len(x)].copy(), rotary[1][: len(x)].copy())
    start, unit = time.monotonic(), Verification(result.level, result.backends)
    run = run_job(run_block_job, block, x, tables, timeout=timeout)
    seconds = time.monotonic() - start
    for op in block.core_ops():
        unit.rows.append(_compare_core(unit, block, op, kept, run))
    kind = "float32 bits" if block.fraction is None else "integers"
    row = Row(f"{block.name} result", kind, x.shape[-1], y.shape[-1], 0, 0, 0, 0, seconds=seconds)
    unit.rows.append(row)
    unit.note(row, "native", _words(y), _words(run.result))
    return Found(unit.rows, unit.first, len(x))


def verify_model(bundle: Bundle, tokens: int, timeout: float | None, progress: Progress | None) -> Verification:
    """Level model: `tokens` of real text in one go, then greedy generation token by token; of an encoder two texts."""
    from kirin_lava.processes.model import LavaModel

    result = Verification("model", ("native networks of all blocks",))
    model = bundle.model()
    room = model.max_positions
    if not model.causal:
        return _verify_encoder(result, bundle, model, min(tokens, room), timeout, progress)
    prompt = real_tokens(bundle, min(tokens, room - _NEW_TOKENS))
    executor, cache = Executor(model), Cache()
    expected = executor.forward(prompt.unsqueeze(0), cache)[0]
    vocabulary = expected.shape[-1]
    generator = torch.Generator()
    with LavaModel(model, len(prompt) + _NEW_TOKENS, timeout, progress) as decoder:
        got = decoder.step(prompt, every=True)
        text = Row("prompt logits", "float32 bits", len(prompt), vocabulary, 0, 0, 0, 0)
        result.rows.append(text)
        result.note(text, "native", _bits(expected), _bits(got))
        grown = Row("generated logits", "float32 bits", _NEW_TOKENS, vocabulary, 0, 0, 0, 0)
        chosen = Row("generated tokens", "ids", _NEW_TOKENS, 1, 0, 0, 0, 0)
        result.rows += [grown, chosen]
        ours, theirs = expected[-1], got[-1]
        for _ in range(_NEW_TOKENS):
            token, other = choose(ours, Sampling(), generator), choose(theirs, Sampling(), generator)
            result.note(chosen, "native", np.array([[token]]), np.array([[other]]))
            ours = executor.forward(torch.tensor([[token]]), cache)[0, -1]
            theirs = decoder.step(torch.tensor([other]))
            result.note(grown, "native", _bits(ours[None]), _bits(theirs[None]))
    return result


def _verify_encoder(
    result: Verification, bundle: Bundle, model: Model, tokens: int, timeout: float | None, progress: Progress | None
) -> Verification:
    """Texts of an encoder: one of `tokens`, then its first half again as a text of its own."""
    from kirin_lava.processes.model import LavaModel

    text = real_tokens(bundle, tokens)
    executor = Executor(model)
    with LavaModel(model, len(text), timeout, progress) as encoder:
        for what, ids in (("text", text), ("half of it", text[: max(1, len(text) // 2)])):
            expected, got = executor.forward(ids.unsqueeze(0))[0], encoder.step(ids)
            row = Row(f"{what}, result", "float32 bits", len(ids), expected.shape[-1], 0, 0, 0, 0)
            result.rows.append(row)
            result.note(row, "native", _bits(expected), _bits(got))
    return result


def lava_logits(bundle: Bundle, tokens: Tensor, timeout: float | None, progress: Progress | None) -> Tensor:
    """Logits (L, vocabulary) of a text (L,), computed on Lava from the embedding on."""
    from kirin_lava.processes.model import LavaModel

    with LavaModel(bundle.model(), len(tokens), timeout, progress) as decoder:
        return decoder.step(tokens, every=True)


def _keep(kept: dict[str, Int64]) -> Callable[[Block, Op, dict[str, Value]], None]:
    """An observer that keeps the integers at the ports of core operations, tokens first; of a `Mix` those of all its parts."""

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        value = values[op.output]
        tensor = value.q if isinstance(value, Codes) else value
        if isinstance(value, Codes) or isinstance(op, CoreOp):
            plain = tensor.transpose(1, 2) if tensor.dim() == 4 else tensor  # (B, H, L, J) -> (B, L, H, J)
            kept[op.output] = plain[0].numpy().astype(np.int64)
        if isinstance(op, Mix):
            parts = sums_by_part(op, codes_in(values, op.input).q, tensor_in(values, cached_name(op.cache)))
            kept[op.output] = parts[:, 0].transpose(0, 1).flatten(1).numpy().astype(np.int64)

    return watch


def _compare_core(result: Verification, block: Block, op: CoreOp, kept: dict[str, Int64], run: Any) -> Row:
    codes = kept[op.input]
    spikes, outliers, silent = op.code.events(codes)
    if isinstance(op, Mix) and block.causal:  # positions later than the token, or left behind, are not silent codes
        tokens, heads, columns = codes.shape
        silent -= heads * sum(columns - op.held(i + 1) for i in range(tokens))
    inputs = int(np.prod(codes.shape[1:]))
    outputs = int(np.prod(kept[op.output].shape[1:]))
    kind, window = type(op).__name__.lower(), op.code.window
    row = Row(f"{block.name}.{op.name}", kind, inputs, outputs, window, spikes, outliers, silent)
    row.ms_native = 1000 * run.seconds / run.steps
    names = [op.input, op.output] + ([] if isinstance(op, Linear) else [op.cache])
    for name in names:
        if name in run.integers:  # fired codes are seen at the next operation's input
            expected, got = kept[name], run.integers[name]
            result.note(row, f"native {name}", expected.reshape(len(expected), -1), got.reshape(len(got), -1))
    for what, expected_count, counts in (("spikes", spikes, run.spikes), ("outliers", outliers, run.outliers)):
        result.note(row, f"native count of {what}", np.array([[expected_count]]), np.array([[counts[op.name]]]))
    return row


def _words(x: Array) -> npt.NDArray[np.int32]:
    """Bits of float32 numbers, or integers."""
    bits: npt.NDArray[np.int32] = x.view(np.int32) if x.dtype == np.float32 else x.astype(np.int32)
    return bits


def _bits(x: Tensor) -> npt.NDArray[np.int32]:
    return x.contiguous().numpy().view(np.int32)
