"""Writes the linear segments of a bundle in the Neuromorphic Intermediate Representation (library `nir`), a graph per block.

A segment becomes a chain of NIR primitives:

    Input -> Linear -> I (u, r = 2^shift) -> I (v) -> Output                        membranes that are read out
    Input -> Linear -> I (u, r = 2^shift) -> I (v) -> Threshold -> Output           neurons that fire

Two integrators in a row are the two-state neuron: with a time step of 1, `u += r * W s` and then `v += u`, a window of spikes
and messages leaves `v = 2^shift * sum_k w q + constant`, exactly. Where a segment's spikes go to the next one without the host,
an edge says so instead of an Output and an Input.

What NIR cannot say, and where it is said instead, in the metadata of the node:

    integers           weights are stored as int8, but NIR computes in real numbers: `bits`, `state_bits`, `shift`, `guarantee`
    windows            a window of T steps that ends with a read-out and a reset of u and v: `window` of the Input, `reads` of v
    time codes         a spike's time is its value, an outlier is one integer at step T - 1: the encoding, at the Input
    silence threshold  a Threshold is constant; ours is infinite for a window, then falls by a ramp per step: `ramp`, `falls`
    one spike          a neuron fires at most once in a window: `spikes`
    host operations    norms, softmax, RoPE, gates, residual sums, scales per token: absent, so a block's chains are not joined
    attention          products of two activations (cached keys and values as weights): absent
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import kirin_lava
from kirin_lava.base.errors import BackendError, UnsupportedError
from kirin_lava.base.files import disk_errors, whole_file
from kirin_lava.base.loihi2 import STATE_BITS
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.netx.read import StoredSegment
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import Silence

if TYPE_CHECKING:
    import nir

__all__ = ["block_graph", "require_nir", "write_nir"]

Int64 = npt.NDArray[np.int64]


def require_nir() -> None:
    """Raise `BackendError` where the library is not installed."""
    try:
        import nir  # noqa: F401
    except ImportError:
        raise BackendError("NIR files need the library nir, which is not installed: pip install 'kirin-lava[nir]'") from None


def write_nir(bundle: Bundle, folder: Path) -> list[Path]:
    """Write `folder/<block>.nir` for every block, read each back and compare, and only then give it its name.

    Raises:
        BackendError: the library nir is missing.
        UsageError: a file cannot be written.
    """
    require_nir()
    import nir

    written = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in bundle.block_names:
        graph = block_graph(bundle.block(name), bundle.segments(name), bundle)
        path = folder / f"{name}.nir"
        with disk_errors(path), whole_file(path) as temporary:
            nir.write(temporary, graph)
            _check_same(nir.read(temporary), graph, name)
        written.append(path)
    return written


def block_graph(block: Block, segments: list[StoredSegment], bundle: Bundle) -> nir.NIRGraph:
    """The chains of a block's linear segments."""
    import nir

    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    stored = {segment.linear.name: segment for segment in segments}
    fired: dict[str, str] = {}  # value -> node that fires it
    for linear in block.linears():
        end = _chain(linear, stored[linear.name], nodes, edges, fired.get(linear.input))
        if linear.fires is not None:
            fired[linear.output] = end
        else:
            _output(linear, end, nodes, edges)
    heard = {edge[0] for edge in edges}
    for linear in block.linears():
        if linear.fires is not None and fired[linear.output] not in heard:  # no other linear segment takes these spikes
            _output(linear, fired[linear.output], nodes, edges)
    source = bundle.manifest["source"]
    about = {
        "about": "linear segments of a language model converted to spikes; what NIR cannot say is in the metadata of the nodes",
        "writer": f"kirin-lava {kirin_lava.__version__}",
        "block": block.name,
        "model": str(source.get("name")),
        "revision": str(source.get("revision") or ""),
        "recipe": bundle.recipe.name,
    }
    return nir.NIRGraph(nodes, edges, metadata=about)


def _output(linear: Linear, end: str, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> None:
    import nir

    name = f"{linear.name}.output"
    nodes[name] = nir.Output({"output": np.array([len(linear.weight)])}, metadata={"value": linear.output})
    edges.append((end, name))


def _chain(
    linear: Linear, segment: StoredSegment, nodes: dict[str, Any], edges: list[tuple[str, str]], source: str | None
) -> str:
    """Add the nodes of a segment; returns the name of the last."""
    import nir

    n, k = linear.weight.shape
    shift = linear.neuron.shift
    name = linear.name
    if source is None:
        source = f"{name}.input"
        meta = {"value": linear.input, "encoding": _plain(linear.code)}
        nodes[source] = nir.Input({"input": np.array([k])}, metadata=meta)
    weights: dict[str, Any] = {
        "segment": name,
        "bits": linear.bits,
        "guarantee": segment.layer.guarantee,
        "sha256": hashlib.sha256(np.ascontiguousarray(linear.weight).tobytes()).hexdigest(),
        "encoding": _plain(linear.code),
    }
    constant = linear.code.zero * linear.weight.sum(1, dtype=np.int64) * 2**shift
    membrane: dict[str, Any] = {
        "state_bits": STATE_BITS,
        "window": linear.code.window,
        "reads": "after a window's last step, minus the constant; then u and v return to 0",
        "constant": constant,
    }
    if segment.scale is not None:
        membrane["scale"] = segment.scale  # of the host: real value = (v - constant) * step of the token * scale
    chain = {
        f"{name}.weights": nir.Linear(linear.weight, metadata=weights),
        f"{name}.u": nir.I(np.full(n, 2.0**shift), metadata={"state_bits": STATE_BITS, "shift": shift}),
        f"{name}.v": nir.I(np.ones(n), metadata=membrane),
    }
    if isinstance(linear.neuron, Silence):
        chain[f"{name}.threshold"] = _threshold(linear.neuron, constant)
    elif linear.fires is not None:
        raise UnsupportedError(f"{name}: NIR has no word for {linear.neuron.name} neurons: leave nir out of --format")
    nodes.update(chain)
    edges += zip([source, *chain], chain, strict=False)
    return list(chain)[-1]


def _threshold(fire: Silence, constant: Int64) -> nir.Threshold:
    """The first, highest threshold of the fire phase, in units of v (a NIR threshold is exceeded, ours is met), as a node."""
    import nir

    top, lift = fire.top(), fire.lift() - constant
    return nir.Threshold(
        (top - lift - 1).astype(np.float64),
        metadata={
            "encoding": _plain(fire.code),
            "falls": "infinite while a window's inputs arrive; then this threshold, lower by the ramp after every step",
            "spikes": "at most one per window and neuron, none after the last threshold; its time is the output code",
            "mirrored": int(fire.code.mirrored),  # the same ladder on -v spikes -1
            "ramp": fire.ramp,
            "offset": fire.offset,
        },
    )


def _plain(enc: SpikeCode) -> dict[str, Any]:
    plain = asdict(enc)
    del plain["channels"]
    return plain | ({} if enc.channels is None else {"fine_channels": enc.channels.mask.astype(np.uint8)})


def _check_same(again: nir.NIRGraph, graph: nir.NIRGraph, name: str) -> None:
    """Everything that was meant must come back, node by node."""
    if sorted(again.edges) != sorted(graph.edges) or not _same(again.to_dict()["nodes"], graph.to_dict()["nodes"]):
        raise RuntimeError(f"{name}: the NIR graph reads back differently from what was written")
    if not _same(again.metadata, graph.metadata):
        raise RuntimeError(f"{name}: the metadata of the NIR graph reads back differently from what was written")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)
