"""Every code: what is sent counts what it stands for, whatever its kernel, and nothing else is sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes import CODES, OFFSET, SIGNED, SIGNED16, SpikeCode, code_named

EVERY = pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)


def all_of(code: SpikeCode) -> np.ndarray:
    """All codes, of wide ones those near every border and thousands of others."""
    if not code.wide:
        return np.unique(code.admitted(np.arange(code.code_min, code.code_max + 1)))
    near = np.arange(-300, 301)
    edges = np.concatenate([near, 2**code.window + near, near - 2**code.window, code.code_max - np.arange(999)])
    some = np.random.default_rng(0).integers(code.code_min, code.code_max + 1, 9000)
    q = np.concatenate([edges, some, [code.code_min]])
    return np.unique(code.admitted(q[abs(q) <= code.code_max]))


@EVERY
@pytest.mark.parametrize("spare", [0, 1, 9])
def test_a_raster_counts_its_codes(code: SpikeCode, spare: int) -> None:
    q, period = all_of(code), code.window + spare
    spikes, messages = code.raster(q, period)
    np.testing.assert_array_equal(code.decode(spikes + messages), q)
    assert not (spikes[:, :spare].any() or messages[:, : period - 1].any())
    np.testing.assert_array_equal(messages[:, -1] != 0, code.is_message(q))
    np.testing.assert_array_equal(np.abs(spikes).sum(1) > 0, code.split(q)[0])
    np.testing.assert_array_equal(np.count_nonzero(spikes, axis=1), code.spike_count(q))


@EVERY
def test_200000_random_windows_in_rows_of_ten_count_what_they_stand_for(code: SpikeCode) -> None:
    rng, window = np.random.default_rng(1), code.window
    q: np.ndarray = rng.integers(code.code_min, code.code_max + 1, (20_000, 10))
    kind = rng.integers(0, 8, q.shape)
    q = code.admitted(
        np.where(kind == 0, -code.zero, np.where(kind == 1, code.code_max, np.where(kind == 2, code.code_min, q)))
    )
    row = code.payloads(q).reshape(len(q), -1)  # ten windows in a row
    counted = row.reshape(-1, window) @ np.array(code.kernel)
    np.testing.assert_array_equal(counted.reshape(q.shape), q + code.zero)


@EVERY
@pytest.mark.parametrize("spare", [0, 5])
def test_the_gains_of_a_running_sum_count_the_same_as_the_kernel(code: SpikeCode, spare: int) -> None:
    period = code.window + spare
    payload = np.random.default_rng(0).integers(-9, 10, (3000, period))
    payload[:, :spare] = 0
    u = payload.cumsum(1)
    np.testing.assert_array_equal(u @ np.array(code.gains(period)), payload @ np.array(code.weights(period)))
    assert code.kernel[-1] == 1 and len(code.kernel) == code.window


@EVERY
def test_events_are_the_same_on_arrays_and_tensors(code: SpikeCode) -> None:
    q = all_of(code)
    spikes, messages, silent = code.events(q)
    assert spikes == code.spike_count(q).sum() and silent == 1
    assert code.split(q)[0].sum() + messages + silent == len(q)
    on_tensors = torch.from_numpy(q).float()
    for mask in ("is_silent", "is_message", "spike_count"):
        np.testing.assert_array_equal(getattr(code, mask)(on_tensors).numpy(), getattr(code, mask)(q))


@EVERY
def test_spans_are_reached_and_not_left(code: SpikeCode) -> None:
    q = all_of(code)
    sent = np.append(q + code.zero, 0)
    assert code.payload_span() == (sent.min(), sent.max()) and code.max_message == np.abs(sent).max()
    spiking = np.append(sent[:-1][~code.is_message(q)], 0)
    assert code.payload_span(messages=False) == (spiking.min(), spiking.max())
    assert code.largest == np.abs(q).max() and code.signed == (q.min() < 0)


def test_without_spikes_none_reach_anywhere_whatever_the_zero_point() -> None:
    for zero in (-5, 5):
        code = replace(code_named("integer-8"), zero=zero)
        assert code.payload_span(messages=False) == (0, 0)
        assert code.payload_span() == (zero - 127, zero + 127) and code.max_message == 132
    above = replace(code_named("integer-8"), code_min=3, code_max=9)
    assert above.payload_span() == (0, 9) and replace(above, zero=-20).payload_span() == (-17, 0)


@EVERY
def test_what_cannot_be_sent_is_refused(code: SpikeCode) -> None:
    with pytest.raises(UsageError, match=f"outside {code.name}"):
        code.raster(np.array([code.code_max + 1]))
    with pytest.raises(UsageError, match=f"cannot hold {code.name} codes"):
        code.raster(np.array([0]), code.window - 1)


@pytest.mark.parametrize(
    ("name", "bits"), [("offset", (4, 8)), ("signed-m16", (4, 16)), ("signed-16-m12", (5, 12)), ("integer-12", (0, 12))]
)
def test_bits_hold_every_code(name: str, bits: tuple[int, int]) -> None:
    code = code_named(name)
    assert (code.spike_bits, code.message_bits) == bits
    assert 2 ** (bits[1] - 1) - 1 == code.code_max == -code.code_min


@pytest.mark.parametrize(
    ("code", "name", "window", "zero", "codes", "spikes"),
    [
        (OFFSET, "offset", 16, 8, (-127, 127), (-8, 7)),  # the paper's
        (SIGNED, "signed", 8, 0, (-127, 127), (-7, 7)),
        (SIGNED16, "signed-16", 16, 0, (-127, 127), (-15, 15)),
    ],
)
def test_codes_are_those_of_their_definition(
    code: SpikeCode, name: str, window: int, zero: int, codes: tuple[int, int], spikes: tuple[int, int]
) -> None:
    assert (code.name, code.window, code.zero) == (name, window, zero)
    assert code.code_span() == codes and code.code_span(messages=False) == spikes == code.spike_codes


@pytest.mark.parametrize("code", [code for code in CODES if not code.has_spikes], ids=lambda code: code.name)
def test_integers_without_spikes_are_sent_as_they_are(code: SpikeCode) -> None:
    assert code.code_span(messages=False) == (0, 0)
    assert code.raster(np.array([0, code.code_max]))[1].tolist() == [[0], [code.code_max]]


def test_codes_of_eight_bits_are_as_many_as_eight_bits_hold() -> None:
    for name in ("unsigned-8", "unsigned-16", "unsigned-integer-8"):
        code = code_named(name)
        assert (code.code_min, code.code_max) == (0, 2**8 - 1)


@EVERY
def test_a_graded_spike_carries_more_than_a_sign(code: SpikeCode) -> None:
    assert code.graded == (code.payload_bits > 1) == bool(code.has_spikes and np.abs(code.raster(all_of(code))[0]).max() > 1)


@EVERY
def test_many_windows_are_decoded_at_once(code: SpikeCode) -> None:
    q = np.resize(code.admitted(all_of(code)), (2, 3, 5))
    np.testing.assert_array_equal(code.decode(code.payloads(q)), q)


def test_codes_have_names_of_their_own() -> None:
    assert [code_named(code.name) for code in CODES] == list(CODES)
    assert not OFFSET.mirrored and SIGNED.mirrored
    assert len({code.name for code in CODES}) == len(CODES)
    with pytest.raises(UsageError, match="unknown code 'morse'"):
        code_named("morse")


Row = tuple[int, int, tuple[int, int], tuple[int, int] | None, tuple[int, ...], tuple[int, int], tuple[int, int], int]
# window, zero, codes, those that travel as spikes, bits of a spike's code, of its payload and of a message, what one step and
# what all steps so far can bring, what a payload counts in the first step
EVERY_CODE: dict[str, Row] = {
    "offset": (16, 8, (-127, 127), (-8, 7), (4, 1, 8), (-119, 135), (-119, 135), 16),
    "offset-m12": (16, 8, (-2047, 2047), (-8, 7), (4, 1, 12), (-2039, 2055), (-2039, 2055), 16),
    "offset-m16": (16, 8, (-32767, 32767), (-8, 7), (4, 1, 16), (-32759, 32775), (-32759, 32775), 16),
    "signed": (8, 0, (-127, 127), (-7, 7), (4, 1, 8), (-127, 127), (-127, 127), 8),
    "signed-m12": (8, 0, (-2047, 2047), (-7, 7), (4, 1, 12), (-2047, 2047), (-2047, 2047), 8),
    "signed-m16": (8, 0, (-32767, 32767), (-7, 7), (4, 1, 16), (-32767, 32767), (-32767, 32767), 8),
    "signed-16": (16, 0, (-127, 127), (-15, 15), (5, 1, 8), (-127, 127), (-127, 127), 16),
    "signed-16-m12": (16, 0, (-2047, 2047), (-15, 15), (5, 1, 12), (-2047, 2047), (-2047, 2047), 16),
    "signed-16-m16": (16, 0, (-32767, 32767), (-15, 15), (5, 1, 16), (-32767, 32767), (-32767, 32767), 16),
    "unsigned-16": (16, 0, (0, 255), (0, 15), (4, 1, 8), (0, 255), (0, 255), 16),
    "unsigned-8": (8, 0, (0, 255), (0, 7), (3, 1, 8), (0, 255), (0, 255), 8),
    "integer-8": (1, 0, (-127, 127), None, (0, 1, 8), (-127, 127), (-127, 127), 1),
    "integer-12": (1, 0, (-2047, 2047), None, (0, 1, 12), (-2047, 2047), (-2047, 2047), 1),
    "integer-16": (1, 0, (-32767, 32767), None, (0, 1, 16), (-32767, 32767), (-32767, 32767), 1),
    "unsigned-integer-8": (1, 0, (0, 255), None, (0, 1, 8), (0, 255), (0, 255), 1),
    "levels-1": (1, 0, (0, 15), (0, 15), (4, 4, 4), (0, 15), (0, 15), 1),
    "levels-2": (2, 0, (0, 31), (0, 31), (4, 5, 5), (0, 31), (0, 31), 1),
    "levels-4": (4, 0, (0, 63), (0, 63), (4, 6, 6), (0, 63), (0, 63), 1),
    "refined-1": (1, 0, (-15, 15), None, (0, 1, 5), (-15, 15), (-15, 15), 1),
    "refined-2": (1, 0, (-31, 31), None, (0, 1, 6), (-31, 31), (-31, 31), 1),
    "rate-4": (4, 0, (0, 4), (0, 4), (3, 1, 3), (0, 4), (0, 4), 1),
    "rate-8": (8, 0, (0, 8), (0, 8), (4, 1, 4), (0, 8), (0, 8), 1),
    "rate-16": (16, 0, (0, 16), (0, 16), (5, 1, 5), (0, 16), (0, 16), 1),
    "planes-16": (16, 0, (-65535, 65535), (-65535, 65535), (17, 1, 17), (-1, 1), (-16, 16), 32768),
    "planes-16-x4": (16, 0, (-262140, 262140), (-262140, 262140), (17, 3, 19), (-4, 4), (-64, 64), 32768),
    "planes-16-x16": (16, 0, (-1048560, 1048560), (-1048560, 1048560), (17, 5, 21), (-16, 16), (-256, 256), 32768),
    "planes-16-x256": (16, 0, (-16776960, 16776960), (-16776960, 16776960), (17, 9, 25), (-256, 256), (-4096, 4096), 32768),
    "planes-12": (12, 0, (-4095, 4095), (-4095, 4095), (13, 1, 13), (-1, 1), (-12, 12), 2048),
    "planes-12-x4": (12, 0, (-16380, 16380), (-16380, 16380), (13, 3, 15), (-4, 4), (-48, 48), 2048),
    "planes-12-x16": (12, 0, (-65520, 65520), (-65520, 65520), (13, 5, 17), (-16, 16), (-192, 192), 2048),
    "planes-12-x256": (12, 0, (-1048320, 1048320), (-1048320, 1048320), (13, 9, 21), (-256, 256), (-3072, 3072), 2048),
    "planes-8": (8, 0, (-255, 255), (-255, 255), (9, 1, 9), (-1, 1), (-8, 8), 128),
    "planes-8-x4": (8, 0, (-1020, 1020), (-1020, 1020), (9, 3, 11), (-4, 4), (-32, 32), 128),
    "planes-8-x16": (8, 0, (-4080, 4080), (-4080, 4080), (9, 5, 13), (-16, 16), (-128, 128), 128),
    "planes-8-x256": (8, 0, (-65280, 65280), (-65280, 65280), (9, 9, 17), (-256, 256), (-2048, 2048), 128),
    "halves-16": (1, 0, (-32639, 32639), None, (0, 1, 16), (-32639, 32639), (-32639, 32639), 1),
}  # fmt: skip


def test_every_code_is_that_of_the_files_that_name_it() -> None:
    found = {
        code.name: (
            code.window, code.zero, code.code_span(), code.spike_codes, (code.spike_bits, code.payload_bits, code.message_bits),
            code.step_span, code.running_span, code.kernel[0],
        )
        for code in CODES
    }  # fmt: skip
    assert found == EVERY_CODE
    assert {code.name for code in CODES if code.mirrored} == {
        name for name in EVERY_CODE if name.startswith(("signed", "planes"))
    }
    assert {code.name for code in CODES if code.wide} == {name for name, row in EVERY_CODE.items() if row[4][2] > 16}
