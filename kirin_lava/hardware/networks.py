"""What a token costs in operations, for four networks that compute the same layers; joules are in `energy.py`.

    FP16        float16 weights and activations, dense
    integer     the bit-matched twin: the same weights and codes, dense and without spikes
    rate        the same weights, every activation an 8-bit rate code in 256 steps, integrate and fire
    ours        the network as it was converted: its spikes, messages and neurons

All four read their weights from the same memory, send the same values between host and chip, and leave norms, softmax and the
like to the host; float16 needs no coding. States are 24 bits wide; our neurons read and write all of theirs in every step, an
integrate-and-fire neuron has one, a dense one writes its sum once. What could pass those bits is split over several neurons,
but for float16. A spike costs an addition per synapse, a graded one a narrow MAC and a message of its bits. An outlier of the
integer twin takes the bits of a message and 16 for its place; a graded message of more than 8 bits costs in proportion to both,
and its products one MAC for every 8 bits. On platforms of events alone the twin sends each code that is not silent as a graded
message in a window of one step.

Of a network without a host, integer operations between the segments are additions of a membrane, a product of 24 bits being
nine MACs of 8, and their results are messages of 24 bits; every network but float16 has the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

from kirin_lava.base.loihi2 import MESSAGE_BITS, STATE_BITS
from kirin_lava.hardware.timing import RATE_WINDOW
from kirin_lava.hardware.work import ModelWork, SegmentWork
from kirin_lava.spikes.codes import SpikeCode, code_named

__all__ = ["NETWORKS", "Counts", "counts_between", "counts_of_segment"]

Counts = dict[str, float]
"""Operations by the names of `kirin_lava.hardware.profile.PRICES`."""

NETWORKS = {
    "fp16": "FP16 network",
    "integer": "bit-matched integer twin",
    "rate": f"8-bit rate-coded spiking network (T = {RATE_WINDOW})",
    "ours": "ours",
}

_INDEX_BITS = 16
_WORD_PRODUCT = 9  # products of 8 bits in one of 24


def counts_of_segment(network: str, segment: SegmentWork, events_only: bool) -> Counts:
    """Operations of a segment per token.

    Args:
        network: key of `NETWORKS`. events_only: whether the platform knows events alone, see the integer twin above.
    """
    count: dict[str, Callable[[SegmentWork], Counts]] = {
        "fp16": _fp16,
        "integer": _integer_events if events_only else _integer_dense,
        "rate": _rate,
        "ours": _ours,
    }
    return count[network](segment)


def counts_between(network: str, work: ModelWork) -> tuple[Counts, float]:
    """What is done between the segments, by neurons and by a host. Without a host a float16 network does in float, for as many
    operations, what the others do in integers."""
    if network == "fp16":
        return {}, work.host_operations - work.code_operations + work.integer_operations
    messages = work.integer_messages * (MESSAGE_BITS + _INDEX_BITS) / (8 + _INDEX_BITS)
    counts = {
        "membrane_add": work.integer_operations - work.integer_products,
        "mac_8x8": _WORD_PRODUCT * work.integer_products,
        "neuron_update": work.integer_messages,
        "state_bit": 2 * STATE_BITS * work.integer_messages,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": STATE_BITS * (work.link_in + work.link_out),
    }
    return counts, work.host_operations


def _fp16(s: SegmentWork) -> Counts:
    return {
        "mac_fp16": s.dense_macs,
        "weight_bit": 16 * (s.dense_macs + s.written),
        "state_bit": 16 * s.neurons / s.parts,
        "dense_bit_hop": 16 * s.elements,
        "host_bit": 16 * (_hosted(s) * s.elements + s.readouts / s.parts + s.written),
    }


def _integer_dense(s: SegmentWork) -> Counts:
    outliers = s.outliers / s.elements if s.elements else 0.0
    narrow, wide = _mac_names(s)
    return {
        narrow: s.dense_macs * (1 - outliers),
        wide: _message_macs(s, s.dense_macs * outliers),
        "weight_bit": s.weight_bits * (s.dense_macs + s.written),
        "state_bit": STATE_BITS * s.neurons,
        "compare": s.comparisons + s.ramp_adds,
        "dense_bit_hop": _code_bits(s),
        "host_bit": _link_bits(s),
    }


def _integer_events(s: SegmentWork) -> Counts:
    narrow, wide = _mac_names(s)
    # a code that takes several spikes is one message of the twin
    code = code_named(s.encoding)
    graded = code.graded
    if code.by_plane:
        return _integer_planes(s, code)
    spikes, products = min(s.spikes, s.elements), min(s.macs, s.dense_macs)
    messages = _spike_cost(s) * spikes + _message_cost(s) * s.outliers
    return {
        narrow: products if graded else s.synaptic_adds,
        wide: 0.0 if graded else _message_macs(s, s.macs),
        "weight_bit": s.bits * ((products if graded else s.synaptic_adds + s.macs) + s.written),
        "neuron_update": s.neurons,
        "membrane_add": s.neurons,
        "state_bit": 2 * STATE_BITS * s.neurons,
        "compare": s.comparisons + s.ramp_adds,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": _link_bits(s),
    }


def _integer_planes(s: SegmentWork, code: SpikeCode) -> Counts:
    """One message a code that is not silent, as wide as its planes are many, and a product of as many bytes."""
    size = -(-code.window // 8)
    sent, products = min(s.spikes, s.elements), min(s.synaptic_adds + s.macs, s.dense_macs)
    messages = (code.spike_bits + _INDEX_BITS) / (8 + _INDEX_BITS) * sent
    return {
        "mac_8x8": size * products,
        "weight_bit": s.bits * (products + s.written),
        "neuron_update": s.neurons,
        "membrane_add": s.neurons,
        "state_bit": 2 * STATE_BITS * s.neurons,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": _hosted(s) * _code_bits(s) + STATE_BITS * s.neurons + 8 * s.written,
    }


def _rate(s: SegmentWork) -> Counts:
    updates = RATE_WINDOW * s.neurons
    return {
        "synaptic_add": s.rate_adds,
        "weight_bit": s.bits * (s.rate_adds + s.written),
        "neuron_update": updates,
        "membrane_add": updates,
        "compare": updates,
        "state_bit": 2 * STATE_BITS * updates,
        "spike_out": s.rate_spikes,
        "spike_hop": s.rate_spikes,
        "host_bit": _hosted(s) * 8 * s.elements + STATE_BITS * s.readouts + 8 * s.written,
    }


def _ours(s: SegmentWork) -> Counts:
    narrow, wide = _mac_names(s)
    graded = code_named(s.encoding).graded  # a weight times a payload of a few bits, and the payload travels
    sent = _spike_cost(s) * s.spikes if graded else 0.0
    return {
        "synaptic_add": s.synaptic_adds,
        narrow if graded else wide: s.macs if graded else _message_macs(s, s.macs),
        "weight_bit": s.bits * (s.synaptic_adds + s.macs + s.written),
        "neuron_update": s.neuron_updates,
        "membrane_add": s.neuron_updates,
        "compare": s.comparisons + s.ramp_adds,
        "state_bit": 2 * s.states_touched * STATE_BITS * s.neuron_updates,
        "spike_out": 0.0 if graded else s.spikes,
        "spike_hop": 0.0 if graded else s.spikes,
        "message_out": sent + _message_cost(s) * s.outliers,
        "message_hop": sent + _message_cost(s) * s.outliers,
        "host_bit": _link_bits(s),
    }


def _mac_names(s: SegmentWork) -> tuple[str, str]:
    """MACs of codes in the spike range (5 bits at the price of 4) and of outliers, for the width of the weights."""
    return ("mac_4x4", "mac_4x8") if s.weight_bits == 4 else ("mac_4x8", "mac_8x8")


def _code_bits(s: SegmentWork) -> float:
    """Of a dense vector of codes: 4 bits each or 5, outliers apart with their place; where all are integers, those of one."""
    code = code_named(s.encoding)
    if not code.has_spikes:
        return code.message_bits * s.elements
    return max(4, code.spike_bits) * s.elements + (code.message_bits + _INDEX_BITS) * s.outliers


def _message_cost(s: SegmentWork) -> float:
    """Of a graded message, in prices of one with 8 bits."""
    return (code_named(s.encoding).message_bits + _INDEX_BITS) / (8 + _INDEX_BITS)


def _spike_cost(s: SegmentWork) -> float:
    """Of a spike with the payload of a graded one, in prices of a message with 8 bits; of another, as a message of its own."""
    code = code_named(s.encoding)
    return (code.payload_bits + _INDEX_BITS) / (8 + _INDEX_BITS) if code.graded else 1.0


def _message_macs(s: SegmentWork, products: float) -> float:
    """MACs of products of messages: one for every 8 bits of a message."""
    return -(-code_named(s.encoding).message_bits // 8) * products


def _hosted(s: SegmentWork) -> int:
    return 0 if s.fed_on_chip else 1


def _link_bits(s: SegmentWork) -> float:
    return _hosted(s) * (_code_bits(s) + 8 * s.written) + STATE_BITS * s.readouts
