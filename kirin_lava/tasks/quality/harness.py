"""Multiple-choice accuracy through lm-evaluation-harness, computed by the integer executor.

Tasks are the harness's own or local YAML files, so nothing has to be fetched. A batch pads on the right: the network is causal,
and its integers do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import BackendError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.prompt import stop_ids
from kirin_lava.tasks.sampling import Sampling, choose

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
else:
    try:
        from lm_eval.api.model import TemplateLM
    except ModuleNotFoundError:  # told by `harness`, when it is needed
        TemplateLM = object

__all__ = ["HarnessResult", "KirinLM", "harness"]

_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class HarnessResult:
    """Metrics by task: `metrics[task][metric]`, as the harness names them."""

    bundle: str
    metrics: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def _rows(self) -> list[tuple[str, str, float]]:
        return [(task, metric, value) for task, values in self.metrics.items() for metric, value in values.items()]

    def to_csv(self) -> str:
        """One line per metric."""
        return csv_lines([{"task": task, "metric": metric, "value": value} for task, metric, value in self._rows()])

    def table(self) -> Table:
        """One row per metric."""
        table = Table(title=f"{self.bundle}, integer executor")
        for column in ("task", "metric", "value"):
            table.add_column(column, justify="right" if column == "value" else "left")
        for task, metric, value in self._rows():
            table.add_row(task, metric, f"{value:.4f}")
        return table


class KirinLM(TemplateLM):
    """A bundle as a model of the harness."""

    def __init__(self, bundle: Path, device: str = "cpu"):
        super().__init__()
        opened = Bundle(bundle)
        opened.require_whole()
        self._executor = Executor(opened.model(), device)
        self._tokenizer = load_tokenizer(opened.path)
        self._stops = stop_ids(opened.path)
        self._room = self._executor.model.max_positions

    @property
    def eot_token_id(self) -> int:
        """What an empty context is replaced by: BOS where there is one."""
        token = self._tokenizer.bos_token_id
        return int(token if token is not None else self._tokenizer.eos_token_id or 0)

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self._tokenizer(string, add_special_tokens=False, verbose=False).input_ids)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of every continuation, and whether it is what greedy decoding gives."""
        start = self.eot_token_id
        rows = [[start, *context, *rest] if context[:1] != [start] else [*context, *rest] for _, context, rest in requests]
        rows = [row[-self._room :] for row in rows]  # a long context loses its beginning
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        while order:
            count = max(1, _BATCH_TOKENS // len(rows[order[0]]))
            batch, order = order[:count], order[count:]
            logits = self._logits([rows[i] for i in batch])
            for place, i in enumerate(batch):
                rest = torch.tensor(requests[i][2])
                stop = len(rows[i]) - 1
                scores = logits[place, stop - len(rest) : stop].double().log_softmax(-1)
                likelihood = float(scores.gather(-1, rest.view(-1, 1)).sum())
                answers[i] = likelihood, bool((scores.argmax(-1) == rest).all())
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows that do not overlap, each begun by BOS."""
        result = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            pieces = [ids[i : i + self._room - 1] for i in range(0, len(ids), self._room - 1)]
            scores = self._loglikelihood_tokens([(("", ""), [], piece) for piece in pieces])
            result.append(sum(score for score, _ in scores))
        return result

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy or drawn continuations up to one of the stop strings."""
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, options: dict[str, Any]) -> str:
        limit, until = int(options.get("max_gen_toks", 64)), options.get("until") or []
        until = [until] if isinstance(until, str) else until
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        ids = [self.eot_token_id, *self.tok_encode(context)][-(self._room - limit) :]
        cache, generator = Cache(), torch.Generator().manual_seed(0)
        logits = self._executor.forward(torch.tensor([ids]), cache, last_only=True)[0, -1]
        tokens: list[int] = []
        while len(tokens) < limit:
            token = choose(logits, Sampling(temperature), generator)
            if token in self._stops:
                break
            tokens.append(token)
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            ends = [text.index(stop) for stop in until if stop in text]
            if ends:
                return str(text[: min(ends)])
            logits = self._executor.forward(torch.tensor([[token]]), cache, last_only=True)[0, -1]
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _logits(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return self._executor.forward(padded).cpu()


def harness(
    bundle: Path, tasks: Sequence[str], include: Path | None = None, limit: int | None = None, device: str = "cpu"
) -> HarnessResult:
    """Run tasks of lm-evaluation-harness.

    Args:
        tasks: names. include: folder with task files of your own. limit: examples per task.

    Raises:
        BackendError: the package lm-eval is missing. UsageError: an unknown task.
    """
    if TemplateLM is object:
        raise BackendError("lm-evaluation-harness is not installed: run `pip install 'kirin-lava[eval]'`")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown or not tasks:
        raise UsageError(f"no task {', '.join(unknown) or 'was named'}; give --include for task files of your own")
    found = simple_evaluate(
        model=KirinLM(bundle, device),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        log_samples=False,
        bootstrap_iters=0,
    )
    assert found is not None
    metrics = {
        task: {
            name.removesuffix(",none"): float(v) for name, v in values.items() if isinstance(v, (int, float)) and "," in name
        }
        for task, values in found["results"].items()
    }
    return HarnessResult(str(bundle), metrics)
