"""What an export will take: size of the bundle and memory of the program, from a shape alone.

Both are estimates. Weights lie in the `.net` files as compressed bytes; `_STORED` says how many a weight takes, normally
distributed and under gzip. Memory is that of the program itself, phase by phase; the largest phase is the peak:

    conversion      what the libraries take, the embedding, the tables of the rotary embedding, the activations of the text
                    before and after a layer, and the costliest layer: its float32 and int8 weights, its moments, the inputs
                    that are summed to them, and what its costliest matrix needs while it is rounded and its ranges proved
    verification    the libraries, the embedding, the tables, the integers of a layer, and the outputs that are computed at once

Processes of Lava, which `--verify lava` starts, come on top.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.base.threads import usable
from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.methods.recipe import Recipe

__all__ = ["ExportEstimate", "export_estimate"]

_FLOAT = 4
_STORED = {4: 0.55, 8: 0.95}
_NEURON_BYTES = 4 + 8 + 3 * 8  # scale, constant, three sample results
_FILE_BYTES = 20_000  # of an HDF5 file besides its arrays
_PROBE_WINDOWS = 16
_LIBRARIES_BYTES = 600_000_000
_TABLES_MADE = 2.5  # while cos and sin are computed in float64, as many times more than what is kept
_ROUNDING = 5  # float32 copies of a matrix that is rounded to nearest
_PROVING_BYTES = 5 * 8 * 2**21  # what is bounded at a time, in 64 bits
_MOMENTS_BYTES = 4 + 8  # per entry of second moments: as they were summed, and as gptq uses them
_PREPARED_BYTES = 5 * 8  # per entry of those that are made ready: float64 matrices at a time
_CHUNK_BYTES = 36 * 4  # per weight of a chunk that gptq rounds: its candidates in float32
_CHUNK_ROWS = 512  # of a chunk, one per thread
_BATCH_TOKENS = 2048  # whose inputs of all matrices are held at a time

VERIFY_BYTES = 64 * 2**20
"""What a verification may use for the events of the outputs that it computes at once."""
_EVENT_BYTES = 3 * 8  # a weight per event, times its count, and the running sum, in 64 bits


@dataclass(frozen=True)
class ExportEstimate:
    """What an export takes.

    Attributes:
        bundle_bytes: on disk. weight_bytes: of all matrices in float32.
        phase_bytes: peak memory of the exporting process in each phase.
    """

    bundle_bytes: int
    weight_bytes: int
    phase_bytes: dict[str, int]

    @property
    def peak_phase(self) -> str:
        """The phase that takes most memory."""
        return max(self.phase_bytes, key=lambda phase: self.phase_bytes[phase])

    @property
    def peak_memory_bytes(self) -> int:
        """Peak memory of the exporting process."""
        return self.phase_bytes[self.peak_phase]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"peak_memory_bytes": self.peak_memory_bytes, "peak_phase": self.peak_phase}


def export_estimate(
    shape: ModelShape, recipe: Recipe, num_samples: int = 64, seq_len: int = 256, verified: bool = True
) -> ExportEstimate:
    """Size and memory of an export.

    Args:
        num_samples, seq_len: calibration rows and their length in tokens.
        verified: whether the export verifies what it wrote.
    """
    linears = [segment for segment in shape.segments if not segment.heads]
    stored = sum(_net_bytes(segment, recipe) for segment in linears)
    probes = sum(_PROBE_WINDOWS * (2 * segment.inputs + 4 * segment.outputs) + 4 * segment.outputs for segment in linears)
    embedding = _FLOAT * shape.host_parameters()
    biases = sum(_FLOAT * segment.outputs for segment in linears)
    tokens = num_samples * min(seq_len, shape.max_positions)
    rows = _FLOAT * tokens * shape.width
    layers = {block: [segment for segment in linears if segment.block == block] for block in shape.blocks()}
    tables = _table_bytes(shape)
    always = _LIBRARIES_BYTES + embedding + tables
    most = max(
        round(_TABLES_MADE * tables), *(2 * rows + _layer_bytes(segments, recipe, tokens) for segments in layers.values())
    )
    phases = {"conversion": always + most}
    if verified:
        phases["verification"] = always + max(_verified_bytes(segments) for segments in layers.values())
    weights = _FLOAT * (shape.weights() + shape.host_parameters())
    return ExportEstimate(stored + probes + embedding + tables + biases, weights, phases)


def verified_at_once(codes: int) -> int:
    """Outputs that a verification computes at once, so that all their events, one per code at most, fit `VERIFY_BYTES`."""
    return max(1, VERIFY_BYTES // (_EVENT_BYTES * max(codes, 1)))


def _table_bytes(shape: ModelShape) -> int:
    """cos and sin of every position, where positions are not learned."""
    widths = [segment.inputs for segment in shape.segments if segment.kind == "score"]
    return 0 if shape.position_rows or not widths else 2 * _FLOAT * shape.max_positions * widths[0]


def _net_bytes(segment: Segment, recipe: Recipe) -> int:
    return (
        round(segment.inputs * segment.outputs * _STORED[segment.weight_bits]) + segment.outputs * _NEURON_BYTES + _FILE_BYTES
    )


def _layer_bytes(segments: list[Segment], recipe: Recipe, tokens: int) -> int:
    """Float32 weights and int8 synapses of a layer, the moments of gptq and what they are summed from, and what its costliest
    matrix needs."""
    weights = sum(segment.inputs * segment.outputs for segment in segments)
    gptq = recipe.weights.method == "gptq" and segments[0].block != "head"  # which is always rounded to nearest
    moments = 0
    if gptq:
        moments = sum(_MOMENTS_BYTES * segment.inputs**2 for segment in segments)
        moments += 2 * _FLOAT * min(tokens, _BATCH_TOKENS) * sum(segment.inputs for segment in segments)
    return (_FLOAT + 1) * weights + moments + max(_matrix_bytes(segment, gptq) for segment in segments)


def _matrix_bytes(segment: Segment, gptq: bool) -> int:
    """What a matrix needs beside itself while it becomes integers."""
    size = segment.inputs * segment.outputs
    needs = [min(_PROVING_BYTES, 5 * 8 * size)]
    if gptq:
        needs.append(_PREPARED_BYTES * segment.inputs**2)
        needs.append(_CHUNK_BYTES * min(size, usable() * _CHUNK_ROWS * segment.inputs))
    else:
        needs.append(_ROUNDING * _FLOAT * size)
    return max(needs)


def _verified_bytes(segments: list[Segment]) -> int:
    """A layer's integers as they are read, and what is computed from one segment of it."""
    sizes = [segment.inputs * segment.outputs for segment in segments]
    results = max(_PROBE_WINDOWS * segment.outputs * 8 * 4 for segment in segments)
    events = min(VERIFY_BYTES, _PROBE_WINDOWS * _EVENT_BYTES * max(sizes))
    return 2 * sum(sizes) + results + 2 * events
