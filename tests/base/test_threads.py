"""Threads: what is spread, in which order, with which modes, and that the caller gets its own back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from kirin_lava.base.threads import at_most, one_thread, spread, spread_out, threads_for, usable


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    """Three threads, whatever the machine has."""
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def test_chunks_run_at_the_same_time_with_operators_on_one_thread() -> None:
    together = threading.Barrier(3, timeout=30)

    def work(item: int) -> tuple[int, int, int]:
        together.wait()  # three at once, or it breaks
        return item, torch.get_num_threads(), usable()

    assert spread(work, range(3)) == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]
    assert torch.get_num_threads() == 3


def test_a_spread_in_a_spread_stays_on_its_thread() -> None:
    def inner(_: int) -> int:
        return threading.get_ident()

    found = spread(lambda _: {threading.get_ident(), *spread(inner, range(4))}, range(3))
    assert all(len(threads) == 1 for threads in found)


def test_results_come_in_order_and_the_first_error_is_raised() -> None:
    def work(item: int) -> int:
        if item % 2:
            raise ValueError(f"item {item}")
        return item * item

    assert spread(work, [4, 2, 6]) == [16, 4, 36]
    with pytest.raises(ValueError, match="item 3"):
        spread(work, [2, 3, 4, 5])
    assert torch.get_num_threads() == 3


def test_the_modes_of_autograd_are_those_of_the_caller() -> None:
    x = torch.ones(2, requires_grad=True)
    kept = torch.zeros(2)
    with torch.no_grad():
        assert [y.requires_grad for y in spread(lambda _: x * 2, range(2))] == [False, False]
    assert [y.requires_grad for y in spread(lambda _: x * 2, range(2))] == [True, True]
    with torch.inference_mode():
        ours = torch.zeros(2)
        spread(lambda i: ours[i].add_(1), range(2))  # refused outside of inference mode
    assert ours.tolist() == [1, 1] and not kept.any()


def test_one_thread_keeps_the_number_for_what_is_spread() -> None:
    with one_thread():
        assert (torch.get_num_threads(), usable()) == (1, 3)
        assert len(set(spread(lambda _: (threading.Event().wait(0.05), threading.get_ident())[1], range(6)))) == 3
    with at_most(2):
        assert (torch.get_num_threads(), usable()) == (2, 3)
        with at_most(64):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3


def test_only_large_operators_pay_for_threads() -> None:
    assert threads_for(576 * 1536) == 1
    assert threads_for(576 * 1536 * 2048) == 3


def test_an_iterator_computes_on_one_thread_and_gives_them_back_in_between() -> None:
    def numbers() -> Iterator[int]:
        for _ in range(3):
            yield torch.get_num_threads()

    between = [(inside, torch.get_num_threads()) for inside in spread_out(numbers())]
    assert between == [(1, 3)] * 3
