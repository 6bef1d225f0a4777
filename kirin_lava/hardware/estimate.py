"""What an export will take: size of the bundle and memory of the program, from a shape alone.

Both are estimates. Weights lie in the `.net` files as compressed bytes; `_STORED` says how many a weight takes, normally
distributed and under gzip. Memory is what the libraries take, the embedding, the activations of the calibration text before and
after a layer, and a layer in float32 with what its conversion needs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.methods.recipe import Recipe

__all__ = ["ExportEstimate", "export_estimate"]

_FLOAT = 4
_STORED = {4: 0.55, 8: 0.95}
_STORED_SHIFTED = 0.62
_NEURON_BYTES = 4 + 8 + 3 * 8  # scale, constant, three sample results
_FILE_BYTES = 20_000  # of an HDF5 file besides its arrays
_PROBE_WINDOWS = 16
_LIBRARIES_BYTES = 600_000_000
_TEMPORARIES = 12  # float32 matrices alive while scales are searched, as measured on layers of 512 and 1024


@dataclass(frozen=True)
class ExportEstimate:
    """bundle_bytes on disk, peak_memory_bytes of the exporting process, weight_bytes of all matrices in float32."""

    bundle_bytes: int
    peak_memory_bytes: int
    weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def export_estimate(shape: ModelShape, recipe: Recipe, num_samples: int = 32, seq_len: int = 256) -> ExportEstimate:
    """Size and memory of an export.

    Args:
        num_samples, seq_len: calibration rows and their length in tokens.
    """
    linears = [segment for segment in shape.segments if not segment.heads]
    stored = sum(_net_bytes(segment, recipe) for segment in linears)
    probes = sum(_PROBE_WINDOWS * (2 * segment.inputs + 4 * segment.outputs) + 4 * segment.outputs for segment in linears)
    embedding = _FLOAT * shape.host_parameters()
    biases = sum(_FLOAT * segment.outputs for segment in linears)
    rows = _FLOAT * num_samples * min(seq_len, shape.max_positions) * shape.width
    layers = {block: [segment for segment in linears if segment.block == block] for block in shape.blocks()}
    working = max(_layer_bytes(segments, recipe) for segments in layers.values())
    weights = _FLOAT * (shape.weights() + shape.host_parameters())
    return ExportEstimate(stored + probes + embedding + biases, _LIBRARIES_BYTES + embedding + 2 * rows + working, weights)


def _net_bytes(segment: Segment, recipe: Recipe) -> int:
    each = _STORED[segment.weight_bits]
    if segment.weight_bits == 4 and segment.bits == 8 and recipe.weights.group_size:
        each = _STORED_SHIFTED
    return round(segment.inputs * segment.outputs * each) + segment.outputs * _NEURON_BYTES + _FILE_BYTES


def _layer_bytes(segments: list[Segment], recipe: Recipe) -> int:
    """Float32 weights and int8 synapses of a layer, temporaries of its largest matrix, and the moments of gptq."""
    weights = sum(segment.inputs * segment.outputs for segment in segments)
    largest = max(segment.inputs * segment.outputs for segment in segments)
    moments = sum(_FLOAT * segment.inputs**2 for segment in segments) if recipe.weights.method == "gptq" else 0
    return (_FLOAT + 1) * weights + _TEMPORARIES * _FLOAT * largest + moments
