"""Graph operations to plain JSON and arrays, and back, with every value checked on the way in.

An operation becomes an object with its `kind` and its fields. Arrays go to a safetensors file beside the manifest under
`<operation>.<field>`, codes are named (those of calibrated channels with an
array of them), a step rule is an object of its own. A `Linear` keeps its wiring here and its integers
in its own `.net`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.graph import ops as known
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Linear, Op
from kirin_lava.graph.ops.integer import INTEGER_OPS
from kirin_lava.spikes.codes import Channels, SpikeCode, code_named
from kirin_lava.spikes.steps import RULES, StepRule
from kirin_lava.spikes.tables import Table

__all__ = ["block_from_json", "block_to_json"]

Array = npt.NDArray[Any]


def _kinds() -> dict[str, type[Any]]:
    """Operations by name, but for `Linear`."""
    return {kind.__name__: kind for kind in (*known.HOST_OPS, *known.CORE_OPS, *INTEGER_OPS) if kind is not Linear}


def block_to_json(block: Block, net_name: Callable[[Linear], str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """A block as plain values and the arrays they refer to. `net_name` gives the file of a linear segment."""
    arrays: dict[str, Array] = {}
    ops = []
    for op in block.ops:
        if isinstance(op, Linear):
            ops.append({"kind": "Linear", "name": op.name, "input": op.input, "output": op.output, "net": net_name(op)})
        else:
            ops.append(_to_json(op, f"{op.name}", arrays))
        ops[-1]["place"] = op.place
    units = {} if block.fraction is None else {"fraction": block.fraction}
    sees = {} if block.causal else {"causal": False}
    return {"name": block.name, "output": block.output, **units, **sees, "ops": ops}, arrays


def _to_json(value: Any, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    result: dict[str, Any] = {"kind": type(value).__name__}
    for item in fields(value):
        content = getattr(value, item.name)
        if content is None and item.metadata.get("left_out"):
            continue
        if isinstance(content, np.ndarray):
            key = f"{prefix}.{item.name}"
            arrays[key] = content
            content = {"array": key}
        elif isinstance(content, SpikeCode):
            content = _code_to_json(content, f"{prefix}.{item.name}", arrays)
        elif isinstance(content, Table):  # one copy a block
            content = _to_json(content, f"table.{content.name}", arrays)
        elif isinstance(content, StepRule):
            content = _to_json(content, f"{prefix}.{item.name}", arrays)
        result[item.name] = content
    return result


def _code_to_json(code: SpikeCode, prefix: str, arrays: dict[str, Array]) -> str | dict[str, Any]:
    """The name of a code, with the array of its fine channels where it has any."""
    if code.channels is None:
        return code.name
    key = f"{prefix}.channels"
    arrays[key] = code.channels.mask.astype(np.uint8)
    return {"name": code.name, "channels": {"array": key}}


def block_from_json(
    values: Any, arrays: Mapping[str, Array], read_net: Callable[[str], Linear], width: int, where: str = "manifest"
) -> Block:
    """A block from what `block_to_json` wrote; whether its operations fit together is for `Block.check` to say.

    Args:
        width: numbers per token at its input.

    Raises:
        UsageError: an unknown kind or field, a value of the wrong type, a missing array.
    """
    entry = _expect(values, dict, where)
    name, output = _expect(entry.get("name"), str, f"{where}: name"), _expect(entry.get("output"), str, f"{where}: output")
    units = None if "fraction" not in entry else _expect(entry["fraction"], int, f"{where}: {name}: fraction")
    causal = _expect(entry.get("causal", True), bool, f"{where}: {name}: causal")
    ops: list[Op] = []
    for index, item in enumerate(_expect(entry.get("ops"), list, f"{where}: ops")):
        place = f"{where}: {name}, operation {index}"
        plain = dict(_expect(item, dict, place))
        plain.pop("place", None)
        if plain.get("kind") == "Linear":
            ops.append(_linear(plain, read_net, place))
        else:
            ops.append(_from_json(plain, _kinds(), arrays, place))
    return Block(name, tuple(ops), output, width, units, causal)


def _linear(values: dict[str, Any], read_net: Callable[[str], Linear], place: str) -> Linear:
    text = {key: _expect(values.get(key), str, f"{place}: {key}") for key in ("name", "input", "output", "net")}
    stored = read_net(text["net"])
    if stored.name != text["name"]:
        raise UsageError(f"{place}: {text['net']} holds segment {stored.name!r} instead of {text['name']!r}")
    return Linear(
        stored.name,
        text["input"],
        text["output"],
        stored.weight,
        stored.bits,
        stored.code,
        stored.neuron,
    )


def _from_json(values: dict[str, Any], kinds: dict[str, type[Any]], arrays: Mapping[str, Array], place: str) -> Any:
    word = values.pop("kind", None)
    kind = kinds.get(word) if isinstance(word, str) else None
    if kind is None:
        raise UsageError(
            f"{place}: kind {reprlib.repr(word)} is none of {', '.join(kinds)}; was it written by another version?"
        )
    entries = {item.name: item for item in fields(kind)}
    for name in (name for name, item in entries.items() if item.metadata.get("left_out")):
        values.setdefault(name, None)
    if set(values) != set(entries):
        odd = ", ".join(sorted(map(str, set(values) ^ set(entries))))
        raise UsageError(f"{place} ({kind.__name__}): entries {odd[:200]} are missing or unknown")
    return kind(**{key: _field(entries[key], value, arrays, f"{place}: {key}") for key, value in values.items()})


def _field(entry: Field[Any], value: Any, arrays: Mapping[str, Array], place: str) -> Any:
    kind = str(entry.type)
    if value is None:
        if kind.endswith("None"):
            return None
        raise UsageError(f"{place} is missing")
    if "dtype" in entry.metadata:
        return _array(entry.metadata["dtype"], value, arrays, place)
    if kind.startswith("Table"):
        return _from_json(dict(_expect(value, dict, place)), {"Table": Table}, arrays, place)
    if kind.startswith("SpikeCode"):
        return _code(value, arrays, place)
    if kind.startswith("StepRule"):
        return _from_json(dict(_expect(value, dict, place)), {rule.__name__: rule for rule in RULES}, arrays, place)
    for word, plain in (("bool", bool), ("int", int), ("float", float), ("str", str)):
        if kind.startswith(word):
            if plain is float and type(value) is int and abs(value) < 2**53:
                return float(value)
            if type(value) is not plain or (isinstance(value, int) and abs(value) >= 2**53):
                raise UsageError(f"{place} is {reprlib.repr(value)}, not of type {word}")
            return value
    raise TypeError(f"{place}: a field of type {kind} has no form in a file")


def _code(value: Any, arrays: Mapping[str, Array], place: str) -> SpikeCode:
    entry = value if isinstance(value, dict) else {"name": value}
    try:
        code = code_named(_expect(entry.get("name"), str, place))
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
    if set(entry) == {"name"}:
        return code
    if set(entry) != {"name", "channels"} or not code.per_channel:
        raise UsageError(f"{place}: {reprlib.repr(entry)} is no code with its channels")
    mask = _array("uint8", entry["channels"], arrays, f"{place}: channels")
    if not mask.size or mask.max() > 1:
        raise UsageError(f"{place}: channels hold other numbers than 0 and 1")
    return code.bound(Channels.of(mask))


def _array(dtype: str, value: Any, arrays: Mapping[str, Array], place: str) -> Array:
    name = _expect(_expect(value, dict, place).get("array"), str, f"{place}: array")
    if name not in arrays:
        raise UsageError(f"{place}: the array {name!r} is missing from the bundle")
    array = arrays[name]
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise UsageError(f"{place}: the array {name!r} is {array.dtype} with {array.ndim} axes, not {dtype} with one")
    return array


def _expect(value: Any, kind: type[Any], place: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{place}: expected {kind.__name__}, found {type(value).__name__}")
    return value
