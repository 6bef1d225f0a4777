"""How many threads work, decided in one place.

A library that splits one operator over threads makes them wait for each other at its end. Where operators are small and the
machine is busy with something else, that wait is the time slice of another process, thousands of times: two threads are then
many times slower than one. So there are two ways to use threads here, and neither can fall below one thread by more than a
chunk of work:

    spread       independent chunks, each computed by one thread from beginning to end; the only wait is for the last chunk
    at_most      one operator over several threads, only where it is so large that a time slice does not matter

The caller's threads are those of `torch.get_num_threads()`: `OMP_NUM_THREADS=1` keeps everything on one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["at_most", "one_thread", "spread", "spread_out", "threads_for", "usable"]

T = TypeVar("T")
R = TypeVar("R")

_LARGE = 1 << 26
"""Multiply-adds from which on an operator may use several threads: milliseconds of work, about a time slice."""

_local = threading.local()


def usable() -> int:
    """Threads that the caller may use: PyTorch's number, also inside of `at_most`; 1 in a thread of `spread`."""
    allowed: int = getattr(_local, "usable", 0) or torch.get_num_threads()
    return allowed


def threads_for(work: int) -> int:
    """How many threads pay for one operator of `work` multiply-adds, on a busy machine too."""
    return usable() if work >= _LARGE else 1


@contextlib.contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Operators that this thread calls use `threads` threads, or fewer where it may use fewer."""
    before, outer = torch.get_num_threads(), getattr(_local, "usable", 0)
    wanted = min(threads, usable())
    _local.usable = usable()
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        _local.usable = outer
        if wanted != before:
            torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Operators that this thread calls run on it alone; `spread` inside still uses all `usable()` threads."""
    return at_most(1)


def spread(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[work(item) for item in items]`, on all usable threads, operators on one thread each.

    Every item is computed as a single thread would, so the results have the same bits for any number of threads. The modes of
    autograd are the caller's. The first exception, in the order of the items, is raised, and what has not begun is left out.
    """
    items, threads = list(items), usable()
    if threads == 1 or len(items) < 2:
        with one_thread():
            return [work(item) for item in items]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def begun(item: T) -> R:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(item)

    with one_thread():
        pool = ThreadPoolExecutor(min(threads, len(items)), "spread", _begin)
        try:
            return list(pool.map(begun, items))
        finally:
            pool.shutdown(cancel_futures=True)


def spread_out(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator, each computed inside of `one_thread`; in between the caller has its threads."""
    while True:
        with one_thread():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _begin() -> None:
    """In a new thread: from now on it is one thread, whatever it calls."""
    torch.set_num_threads(1)
    _local.usable = 1
