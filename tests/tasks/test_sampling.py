"""Drawing tokens: the same ones stay as in transformers, as likely."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kirin_lava.base.errors import UsageError
from kirin_lava.tasks.sampling import Sampler, Sampling, choose


def by_transformers(logits: Tensor, sampling: Sampling) -> Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    scores: Tensor = warpers(torch.zeros(1, 0, dtype=torch.int64), logits.double()[None])[0]
    return scores.softmax(-1)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 300),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
)
def test_what_stays_and_how_likely_it_is(
    seed: int, size: int, spread: float, temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread
    sampling = Sampling(temperature, top_k, top_p)
    ours, theirs = sampling.scores(logits).softmax(-1), by_transformers(logits, sampling)
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), penalty=st.sampled_from([0.5, 1.0, 1.3, 5.0]))
def test_tokens_that_came_before_are_less_likely(seed: int, penalty: float) -> None:
    """Prompt and answer; three greedy tokens in a row from the same logits."""
    logits = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    seen = [3, 3, 7]
    sampler = Sampler(Sampling(repetition_penalty=penalty), seen)
    for _ in range(3):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits[None].clone())
        token = sampler(logits)
        assert token == int(theirs.argmax())
        seen.append(token)


def test_what_is_drawn_lies_among_the_most_likely() -> None:
    logits = torch.tensor([0.0, 3.0, 2.5, -1.0, 2.9])

    def drawn(sampling: Sampling, times: int) -> set[int]:
        return {choose(logits, sampling, torch.Generator().manual_seed(seed)) for seed in range(times)}

    assert drawn(Sampling(1.5, 3), 200) == {1, 2, 4}
    assert drawn(Sampling(1.5, 1), 50) == {1}
    assert drawn(Sampling(5.0), 300) == {0, 1, 2, 3, 4}
    assert drawn(Sampling(1.0, top_p=0.5), 100) == {1, 4}
    assert choose(logits, Sampling(0.0, 3), torch.Generator()) == 1


def test_a_seed_draws_the_same_again() -> None:
    logits = torch.zeros(100)
    first, again, other = (Sampler(Sampling(1.0, seed=seed)) for seed in (4, 4, 5))
    tokens = [first(logits) for _ in range(5)]
    assert tokens == [again(logits) for _ in range(5)] != [other(logits) for _ in range(5)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0: give a number 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.1}, "top_p is 1.1: give a number from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: give a number above 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sampling(**changes)  # type: ignore[arg-type]
