"""NIR files are read back equal, and what NIR can say of a segment computes its integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kirin_lava.export.bundle import Bundle
from kirin_lava.export.nir import write_nir
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.neurons import Silence
from tests.tasks.report.bundles import small_bundle

nir = pytest.importorskip("nir", reason="the library nir is not installed")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bundle, dict[str, Any]]]:
    """A bundle whose first linear of a feed-forward fires, one whose linears are all read out, and their graphs."""
    result = {}
    for kind, encoding in (("opt", "offset"), ("llama", "signed")):
        folder = tmp_path_factory.mktemp("nir")
        bundle = Bundle(small_bundle(folder, kind, encoding))
        paths = write_nir(bundle, folder / "nir")
        assert [path.stem for path in paths] == bundle.block_names
        result[kind] = bundle, {path.stem: nir.read(path) for path in paths}
    return result


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_weights_and_metadata_come_back(written: dict[str, tuple[Bundle, dict[str, Any]]], kind: str) -> None:
    bundle, graphs = written[kind]
    for name, graph in graphs.items():
        assert graph.metadata["block"] == name and graph.metadata["recipe"] == bundle.recipe.name
        for segment in bundle.segments(name):
            linear = segment.linear
            node = graph.nodes[f"{linear.name}.weights"]
            assert node.weight.dtype == np.int8 and np.array_equal(node.weight, linear.weight)
            assert node.metadata["bits"] == linear.bits
            assert node.metadata["guarantee"] == segment.layer.guarantee
            assert node.metadata["encoding"]["name"] == linear.code.name
            assert node.metadata["encoding"]["window"] == linear.code.window
            membrane = graph.nodes[f"{linear.name}.v"].metadata
            assert membrane["window"] == linear.code.window
            if segment.scale is not None:
                assert np.array_equal(membrane["scale"], segment.scale)
            neuron = linear.neuron
            if isinstance(neuron, Silence):
                fire = graph.nodes[f"{linear.name}.threshold"].metadata
                assert np.array_equal(fire["ramp"], neuron.ramp) and np.array_equal(fire["offset"], neuron.offset)


def test_spikes_go_on_without_the_host_where_neurons_fire(written: dict[str, tuple[Bundle, dict[str, Any]]]) -> None:
    edges = written["opt"][1]["blocks.0"].edges
    assert ("mlp.fc1.threshold", "mlp.fc2.weights") in edges
    assert not [edge for edge in edges if edge[0] == "mlp.fc2.input" or edge[1] == "mlp.fc1.output"]
    assert ("attn.qkv.v", "attn.qkv.output") in edges


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_a_graph_computes_the_recorded_integers(written: dict[str, tuple[Bundle, dict[str, Any]]], kind: str) -> None:
    """Integrators and thresholds, stepped as NIR defines them, with what the metadata adds: windows, ramps, one spike."""
    bundle, graphs = written[kind]
    compared = 0
    for name, graph in graphs.items():
        for key, probe in bundle.probes(name).items():
            linear = next(s.linear for s in bundle.segments(name) if s.linear.name == key)
            got = np.array([_run(graph, linear, codes) for codes in probe.codes])
            assert np.array_equal(got, probe.result), f"{kind} {name} {key}"
            compared += got.size
    assert compared > 1000


def _run(graph: Any, linear: Linear, codes: Any) -> Any:
    weights, u_node, v_node = (graph.nodes[f"{linear.name}.{part}"] for part in ("weights", "u", "v"))
    u = v = np.zeros(len(u_node.r))
    for arriving in linear.code.payloads(codes).T:
        u = u + u_node.r * (weights.weight @ arriving)
        v = v + v_node.r * u
    threshold = graph.nodes.get(f"{linear.name}.threshold")
    if threshold is None:
        return v - v_node.metadata["constant"]
    meta = threshold.metadata
    falling, code = threshold.threshold.copy(), np.zeros(len(v))
    for level in range(meta["encoding"]["window"] - 1, 0, -1):
        code = np.where((code == 0) & (v > falling), level, code)
        falling -= meta["ramp"]
    return code - meta["encoding"]["zero"]


def test_the_same_bundle_gives_the_same_files(tmp_path: Path, written: dict[str, tuple[Bundle, dict[str, Any]]]) -> None:
    bundle = written["opt"][0]
    first, second = (write_nir(bundle, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
