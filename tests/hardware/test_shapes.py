"""A model's shape from its config alone equals the shape of the converted model."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.shapes import ModelShape, shape_of_model
from kirin_lava.methods.kirin import KirinOptions, Outliers
from kirin_lava.methods.recipe import HeadSpec, load_recipe, recipe_names
from kirin_lava.methods.site import Site
from kirin_lava.models import family_of
from kirin_lava.quantize.convert import convert_model
from kirin_lava.quantize.without_weights import shape_of_config
from tests.hardware.known_configs import LLAMA_2_7B, OPT_125M, PUBLIC, WEIGHTS
from tests.small_models import CONFIGS, random_checkpoint, random_rows


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        *(("opt" if load_recipe(name).method.needs_activation else "llama", name) for name in recipe_names()),
        *((kind, "kirin-w4a4-8") for kind in CONFIGS if kind != "llama"),
    ],
)
def test_config_and_converted_model_agree(tmp_path: Path, kind: str, recipe: str) -> None:
    chosen = load_recipe(recipe)
    model = convert_model(random_checkpoint(tmp_path, kind), random_rows(CONFIGS[kind]), chosen)
    planned, made = shape_of_config(CONFIGS[kind], chosen), shape_of_model(model)
    if chosen.method.measures(Site("blocks.0", "attn.qkv"), chosen.options):
        planned, made = _unmeasured(planned), _unmeasured(made)
    assert planned == made


def _unmeasured(shape: ModelShape) -> ModelShape:
    """Without what only weights and a text tell: how far outliers reach, and whether a membrane holds all planes."""
    segments = (replace(s, encoding=s.encoding.partition("-x")[0], readouts=0, state_words=0) for s in shape.segments)
    return replace(shape, segments=tuple(segments))


def test_they_agree_on_unusual_recipes(tmp_path: Path) -> None:
    sites = {"mlp.down": 0.2, "attn.q": 0.3, "blocks.1.attn.p": 0.2}
    options, head = KirinOptions("offset", outliers=Outliers(0.05, sites=sites)), HeadSpec(bits=4)
    recipe = replace(load_recipe("kirin-w4a4-8"), options=options, head=head)
    for kind in ("qwen3", "opt"):
        model = convert_model(random_checkpoint(tmp_path / kind, kind), random_rows(CONFIGS[kind]), recipe)
        shape = shape_of_config(CONFIGS[kind], recipe)
        assert shape == shape_of_model(model)
        assert {s.fed_by for s in shape.segments if s.name == "mlp.fc2"} <= {"mlp.fc1"}


def test_sizes_are_those_of_a_run(tmp_path: Path) -> None:
    """Neurons, products and host operations per token, at the context that the tokens see."""
    recipe = load_recipe("kirin-w4a4-12")
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), recipe)
    counter = Counter()
    Executor(model, observer=counter).forward(torch.stack(random_rows(CONFIGS["llama"], rows=1, length=7)))
    stats, shape = counter.result(), shape_of_model(model)
    contexts = range(1, 8)
    for row, segment in zip(stats.core, shape.segments, strict=True):
        assert (row.block, row.op, row.kind, row.weight_bits) == (segment.block, segment.name, segment.kind, segment.bits)
        assert row.neurons == sum(segment.neurons(c) for c in contexts)
        assert row.dense_macs == sum(segment.synapses(c) for c in contexts)
        assert row.elements == sum(segment.inputs * max(segment.heads, 1) if segment.kind != "mix" else c * 4 for c in contexts)
    for work, counted in zip(shape.host, stats.host, strict=True):
        assert (work.name, sum(work.at(c) for c in contexts)) == (counted.op, counted.float_operations)


def test_known_models_have_their_published_sizes() -> None:
    recipe = load_recipe("kirin-w4a4-8")
    llama, opt = shape_of_config(LLAMA_2_7B, recipe), shape_of_config(OPT_125M, recipe)
    norms = 65 * 4096
    assert llama.weights() + llama.host_parameters() + norms == 6_738_415_616
    biases, opt_norms = 12 * (4 * 768 + 3072 + 768), 12 * 4 * 768 + 2 * 768
    tied = 50272 * 768
    assert opt.weights() - tied + opt.host_parameters() + biases + opt_norms == 125_239_296
    assert llama.layers == 32 and len(llama.blocks()) == 33
    assert sum(s.cached() for s in llama.segments) == 32 * 2 * 4096


@pytest.mark.parametrize("name", PUBLIC)
def test_models_of_today_have_their_published_sizes(name: str) -> None:
    """What a family asks of a checkpoint is all that is published; its shape comes from config.json alone."""
    config, sizes = PUBLIC[name], dict[str, int]()
    family = family_of(config)

    def load(tensor: str, shape: tuple[int, ...]) -> Tensor:
        sizes[tensor] = prod(shape)
        return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)

    family.embedding(config, load)
    for index in range(family.dimensions(config).layers):
        family.block(config, index, load)
    family.head(config, load)
    assert sum(sizes.values()) == WEIGHTS[name]
    shape = shape_of_config(config, load_recipe("kirin-w4a4-8"), 64)
    assert shape.layers == family.dimensions(config).layers and shape.weights() < sum(sizes.values()) * 1.35


def test_an_unsupported_config_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="gelu"):
        shape_of_config({**CONFIGS["opt"], "activation_function": "gelu"}, load_recipe("fast"))
