"""The harness gives the accuracy that the executor's own log-likelihoods give, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Executor
from kirin_lava.models.tokenizer import load_tokenizer
from tests.exports import export
from tests.hf_models import save_model

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of third parties; datasets and lm_eval warn of each other

QUESTIONS = [("the fox", ["ran", "sea"]), ("a hare", ["is", "and old"]), ("dark wood", ["away", "x"])]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_accuracy_equals_our_own_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from kirin_lava.tasks.quality.harness import KirinLM, harness

    out = tmp_path / "out"
    export(str(save_model(tmp_path / "model")), out, "fast", num_samples=2, seq_len=32, verify_with="none")
    data = tmp_path / "tasks" / "questions.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps({"question": q, "choices": c}) + "\n" for q, c in QUESTIONS))
    (data.parent / "tiny.yaml").write_text(TASK.format(file=data))
    result = harness(out, ["tiny_choice"], data.parent)

    tokenizer, executor = load_tokenizer(out), Executor(Bundle(out).model())

    def likelihood(context: str, rest: str) -> float:
        before = [0, *tokenizer(context, add_special_tokens=False).input_ids]
        after = tokenizer(" " + rest, add_special_tokens=False).input_ids
        scores = executor.forward(torch.tensor([before + after]))[0].double().log_softmax(-1)
        return sum(float(scores[len(before) - 1 + i, token]) for i, token in enumerate(after))

    right = sum(likelihood(q, c[0]) > likelihood(q, c[1]) for q, c in QUESTIONS)
    assert result.metrics["tiny_choice"]["acc"] == pytest.approx(right / len(QUESTIONS))
    lines = result.to_csv().splitlines()
    assert lines[0] == "task,metric,value" and f"tiny_choice,acc,{result.metrics['tiny_choice']['acc']}" in lines
    with pytest.raises(UsageError, match="no task nothing"):
        harness(out, ["nothing"], data.parent)
    text = KirinLM(out)._continue("the fox", {"until": ["\n"], "max_gen_toks": 5})
    assert isinstance(text, str)
