"""The test of the seam: a method, a family and a host operation that only this file knows go through the whole program.

Nothing else is changed for them but the tuples METHODS, FAMILIES and HOST_OPS, where a line would be added.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kirin_lava import models
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph import ops
from kirin_lava.graph.ops.op import FloatForm, HostOp
from kirin_lava.graph.port import REAL, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values, tensor_in
from kirin_lava.methods import known
from kirin_lava.methods.method import Method
from kirin_lava.methods.site import Coding, Site
from kirin_lava.models.config import Config
from kirin_lava.models.layout import Dense, Dimensions, Family, FloatBlock, FloatEmbedding, Load
from kirin_lava.models.text import EVALUATION_TEXT
from kirin_lava.spikes.codes import INTEGER8, UNSIGNED_INTEGER8, SpikeCode
from kirin_lava.spikes.steps import RowBudget, TokenBudget
from kirin_lava.tasks.options import Sample
from kirin_lava.tasks.quality.compare import compare
from kirin_lava.tasks.report import make_report
from kirin_lava.tasks.verify import verify
from tests.exports import export
from tests.hf_models import VOCABULARY, save_model, save_tokenizer


# --8<-- [start:method]
@dataclass(frozen=True)
class PlainOptions:
    """A section without entries."""


class Plain(Method):
    """8-bit integers everywhere, no spikes: every value is a graded message in a window of one step."""

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "Plain integers"
    options: ClassVar[type[Any]] = PlainOptions

    def activations(self, options: PlainOptions) -> SpikeCode:
        return INTEGER8

    def coding(self, site: Site, options: PlainOptions) -> Coding:
        if site.side == "p":
            return Coding(UNSIGNED_INTEGER8, RowBudget(), site.name)
        return Coding(INTEGER8, TokenBudget(), site.name)

    def setting(self, options: PlainOptions) -> str:
        return "A8"


PLAIN = Plain()
# --8<-- [end:method]

RECIPE = """
name: plain-w8a8
method: plain
weights: {bits: 8, method: rtn}
"""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The recipe file of the new method."""
    monkeypatch.setattr(known, "METHODS", (*known.METHODS, PLAIN))
    path = tmp_path / "plain.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_new_method_is_exact_and_shown_everywhere(plain: str, family: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(save_model(tmp_path / "model", family, num_hidden_layers=1)), out, plain, num_samples=2, verify_with="none")
    bundle = Bundle(out)
    assert bundle.recipe.method is PLAIN and bundle.manifest["recipe"]["plain"] == {}
    assert {op.code for name in bundle.block_names for op in bundle.block(name).core_ops()} == {INTEGER8, UNSIGNED_INTEGER8}
    segments = verify(out, "segment")
    assert segments.backends[-2:] == ("native", "stock") and segments.compared > 10_000 and not segments.mismatches
    blocks = verify(out, "block", tokens=3)
    assert blocks.compared > 2_000 and not blocks.mismatches
    if family == "llama":
        report = make_report(out, text=EVALUATION_TEXT, max_rows=1)
        page, card = (out / "report.html").read_text(), (out / "README.md").read_text()
        for text in (page, card):
            assert "Plain integers" in text and "Kirin (arXiv" not in text and "silence threshold" not in text
        assert report.to_dict()["method"] == {"name": "plain", "title": "Plain integers", "paper": None}
        assert report.to_dict()["counts"]["total"]["spikes"] == 0 < report.to_dict()["counts"]["total"]["outliers"]


@pytest.mark.slow
def test_a_new_method_is_compared(plain: str) -> None:
    result = compare("demo", [plain, "kirin-w4a4-12"], sample=Sample(rows=2, tokens=64), max_rows=2)
    first, second = result.contenders
    assert (first.name, first.window, first.method) == ("plain-w8a8", 1, "plain")
    assert first.outlier_share == pytest.approx(1 - (first.silent_share or 0))
    assert first.perplexity_ratio < second.perplexity_ratio and second.window == 8
    assert first.steps_per_token is not None and second.steps_per_token is not None
    assert first.steps_per_token * 4 < second.steps_per_token


# --8<-- [start:host-op]
@dataclass(frozen=True, eq=False)
class SquaredRelu(HostOp):
    """`y = max(x, 0)^2`."""

    name: str
    input: str
    output: str

    def port(self, inputs: Inputs) -> Port:
        return inputs.read(self.input, REAL)

    def compute(self, values: Values, context: HostContext) -> Value:
        return tensor_in(values, self.input).clamp_min(0.0).square()

    def operations(self) -> int:
        return 2

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        return values[self.input].relu().square()


# --8<-- [end:host-op]
# --8<-- [start:family]
def _dimensions(config: Config) -> Dimensions:
    width = config["width"]
    return Dimensions(config["layers"], width, 1, 1, width, 2 * width, config["vocabulary"], 64)


def _block(config: Config, index: int, load: Load) -> FloatBlock:
    d = _dimensions(config)
    up, down = load(f"layers.{index}.up", (d.hidden, d.width)), load(f"layers.{index}.down", (d.width, d.hidden))
    return FloatBlock(
        f"blocks.{index}",
        (
            Dense("mlp.up", "x", "wide", up, None),
            SquaredRelu("mlp.square", "wide", "squared"),
            Dense("mlp.down", "squared", "fed", down, None),
            ops.Add("mlp.residual", "x", "fed", "y"),
        ),
        "y",
    )


def _head(config: Config, load: Load) -> FloatBlock:
    d = _dimensions(config)
    return FloatBlock("head", (Dense("lm_head", "x", "logits", load("head", (d.vocabulary, d.width)), None),), "logits")


TOY = Family(
    model_types=("toy",),
    sites=("mlp.up", "mlp.down", "head.lm_head"),
    check=lambda config: None,
    dimensions=_dimensions,
    embedding=lambda config, load: FloatEmbedding(load("embed", (_dimensions(config).vocabulary, config["width"]))),
    block=_block,
    head=_head,
    rotary=lambda config: None,
)
# --8<-- [end:family]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint of the new family, with a tokenizer of bytes."""
    monkeypatch.setattr(models, "FAMILIES", (*models.FAMILIES, TOY))
    monkeypatch.setattr(ops, "HOST_OPS", (*ops.HOST_OPS, SquaredRelu))
    folder = tmp_path / "toy"
    save_tokenizer(folder)
    config = {"model_type": "toy", "width": 24, "layers": 1, "vocabulary": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed": (VOCABULARY, 24), "head": (VOCABULARY, 24), "layers.0.up": (48, 24), "layers.0.down": (24, 48)}
    save_file(
        {name: torch.randn(shape, generator=generator) / 5 for name, shape in shapes.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "levels"), [("kirin-w4a5-12", ["segment", "block"]), ("fast", ["segment", "model"])])
def test_a_new_family_and_a_new_host_operation_are_exact(toy: Path, recipe: str, levels: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(toy), out, recipe, num_samples=2, seq_len=32, verify_with="none")
    block = Bundle(out).block("blocks.0")
    assert [type(op) for op in block.ops if op.name == "mlp.square"] == [SquaredRelu]
    for level in levels:
        result = verify(out, level, tokens=3)
        assert result.compared and not result.mismatches
