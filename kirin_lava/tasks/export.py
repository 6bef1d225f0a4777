"""`export`, from a checkpoint to a bundle, readable from top to bottom:

open -> read calibration text -> (per layer) calibrate, lower, probe, write -> finish -> verify -> publish
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.laps import Laps
from kirin_lava.base.memory import peak_memory
from kirin_lava.base.threads import one_thread
from kirin_lava.base.units import in_bytes
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.bundle_write import BundleWriter
from kirin_lava.export.nir import write_nir
from kirin_lava.export.publish import Place
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.placement import planned_context
from kirin_lava.hardware.ranges import block_ranges, model_ranges, require_fit
from kirin_lava.methods.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.passages import fingerprints
from kirin_lava.models.text import CALIBRATION_TEXT, read_text
from kirin_lava.processes.runtime import require_lava
from kirin_lava.quantize.convert import convert_blocks, frame_of, rotary_of
from kirin_lava.quantize.integers import whole_rotary
from kirin_lava.quantize.record import probe_block
from kirin_lava.tasks.options import Checks, Output, Sample, Training
from kirin_lava.tasks.report.card import model_card, source_license
from kirin_lava.tasks.verify import Verification, verify

__all__ = ["ExportResult", "export"]

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how many parts are done and how many there are."""

_RANGE_ROWS = 4
_SPARE_DISK = 2.0  # an export needs about the size of its float32 weights; asked for this many times over


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        path: the bundle. segments: linear segments written. bytes: size on disk. seconds: wall time, verification included.
        phase_seconds: wall time of the parts of an export. block_seconds: of every block that was converted now, by what was
            done. Where an export goes on, the blocks that were written before are left out.
        peak_memory_bytes: largest resident size of this process so far.
        digest: hash of the content, equal for equal requests.
        verification: of the requested level, or None.
        warnings: what makes the conversion worse than what was asked for, one line each.
    """

    path: str
    model: str
    recipe: str
    segments: int
    bytes: int
    seconds: float
    peak_memory_bytes: int
    digest: str
    verification: Verification | None
    warnings: tuple[str, ...] = ()
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    block_seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(replace(self, verification=None)) | {
            "verification": None if self.verification is None else self.verification.to_dict()
        }


def export(
    model: str,
    out: Path | str,
    recipe: str | Recipe = DEFAULT_RECIPE,
    sample: Sample = Sample(),
    training: Training = Training(),
    checks: Checks = Checks(),
    output: Output = Output(),
    revision: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Convert a model and write the bundle `out`.

    Args:
        model: folder, GGUF file, embedded or packaged model, or hub id. revision: branch, tag or commit of a hub model.
        recipe: name, YAML file or recipe.
        sample: the text to calibrate on. training: after rounding, in place of the recipe's.
        checks: what the bundle must pass. output: what is written.

    Raises:
        KirinError: see `kirin_lava.base.errors`; nothing is left at `out`.
    """
    start = time.monotonic()
    report = progress or (lambda what, done, total: None)
    chosen = training.of(load_recipe(recipe) if isinstance(recipe, str) else recipe)
    if checks.backend == "lava":
        require_lava()
    out = Path(out)
    Place(out).prepare(output.force, output.resume)
    report("open the checkpoint", 0, 1)
    checkpoint = open_checkpoint(model, revision)
    chosen.check_sites(checkpoint.family.sites, checkpoint.dimensions.layers)
    _check_disk(out, checkpoint)
    dimensions = checkpoint.dimensions
    first, last = output.layers or (0, dimensions.layers - 1)
    if not 0 <= first <= last < dimensions.layers:
        raise UsageError(f"layers {first}-{last} are not within 0-{dimensions.layers - 1}")
    positions = dimensions.max_positions
    if checks.context is not None:
        positions = planned_context(positions, checks.context)
    wanted = [f"blocks.{i}" for i in range(first, last + 1)] + (["head"] if output.layers is None else [])

    text_file = sample.file or CALIBRATION_TEXT
    text = read_text(text_file)
    length = min(sample.tokens, dimensions.max_positions)
    drawn = draw_sample(checkpoint.tokenizer(), text, length, sample.rows, sample.seed, checkpoint.family.encoder)
    tokens = drawn.rows
    checkpoint.check_tokens(tokens)
    source = {
        "model": model,
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256(),
        "calibration": {
            "text": text_file.name if sample.text else "built-in",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "passages": fingerprints(drawn.passages),
            **drawn.used(),
            "seed": sample.seed,
        },
    }
    content = {key: value for key, value in source.items() if key != "model"}  # the checkpoint may be moved
    request = {"source": content, "recipe": chosen.to_dict(), "blocks": wanted, "context": checks.context}
    torch.manual_seed(sample.seed)
    phases, blocks = Laps(), {}
    phases.seconds["read"] = time.monotonic() - start
    provenance = {"model": checkpoint.name, "revision": checkpoint.revision or "", "recipe": chosen.name}
    with BundleWriter(out, request, output.resume, output.force, provenance) as writer:
        if not writer.published:
            with phases.lap("convert"):
                blocks = _convert(writer, checkpoint, tokens, chosen, wanted, sample.seed, training.device, report, positions)
                licence = checkpoint.source.license or source_license(model, checkpoint.revision)
                told = {**source, "license": licence, "weights": checkpoint.weights()}
                writer.finish(frame_of(checkpoint, chosen), told, chosen, checkpoint.source.save)
        bundle = Bundle(writer.folder)
        if checks.target == "loihi2":
            report("check ranges", 0, 1)
            with phases.lap("check ranges"):
                _require_fit(bundle, tokens, positions)
        if "nir" in output.formats:
            with phases.lap("write NIR"):
                write_nir(bundle, writer.folder / "nir")
        verification = None
        if checks.backend != "none":
            with phases.lap("verify"):
                verification = verify(writer.folder, backend=checks.backend, timeout=checks.timeout, progress=progress)
            verification.require()
            if verification.unwritten:
                raise UsageError(verification.unwritten)
        writer.describe(model_card(Bundle(writer.folder), None))
        writer.publish()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    segments = sum(name.startswith("net/") for name in bundle.manifest["files"])
    seconds = time.monotonic() - start
    return ExportResult(
        path=str(out),
        model=checkpoint.name,
        recipe=chosen.name,
        segments=segments,
        bytes=size,
        seconds=seconds,
        peak_memory_bytes=peak_memory(),
        digest=bundle.digest(),
        verification=verification,
        warnings=drawn.warnings,
        phase_seconds=phases.seconds,
        block_seconds=blocks,
    )


def _convert(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    tokens: list[Tensor],
    recipe: Recipe,
    wanted: list[str],
    seed: int,
    device: str,
    report: Progress,
    context: int,
) -> dict[str, dict[str, float]]:
    """Write all blocks that are not written yet. Returns the seconds that each took, by what was done."""
    tables = rotary_of(checkpoint)
    rotary = None if tables is None else (tables[0].numpy(), tables[1].numpy())
    rotary = whole_rotary(rotary) if recipe.spiking_host else rotary
    todo = [name for name in wanted if not writer.finished(name)]
    report("convert layers", len(wanted) - len(todo), len(wanted))
    seconds: dict[str, dict[str, float]] = {}
    if not todo:
        return seconds
    left_out = lambda name: name not in todo  # noqa: E731
    stop = wanted[-1] if recipe.recovery.method != "none" else todo[-1]
    for item in convert_blocks(checkpoint, tokens, recipe, left_out, stop, seed, report, writer.scratch, device, context):
        with item.laps.lap("probe"), one_thread():
            probes = probe_block(item.block, item.rows, rotary)
        with item.laps.lap("write"):
            writer.write_block(item.block, probes)
        todo.remove(item.block.name)
        seconds[item.block.name] = item.laps.seconds
        report("convert layers", len(wanted) - len(todo), len(wanted))
    return seconds


def _require_fit(bundle: Bundle, tokens: list[Tensor], context: int) -> None:
    """Raise one `FitError` with every quantity that does not fit Loihi 2 at `context` positions, in the worst case or on
    calibration text."""
    observer = RangeObserver()
    if bundle.complete:
        model = bundle.model()
        executor = Executor(model, observer=observer)
        for row in tokens[:_RANGE_ROWS]:
            executor.forward(row.unsqueeze(0))
        require_fit(model_ranges(model, observer, context))
    else:
        require_fit(row for name in bundle.block_names for row in block_ranges(bundle.block(name), context))


def _check_disk(out: Path, checkpoint: Checkpoint) -> None:
    """Raise before hours of work where the disk is too small or the folder cannot be written."""
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    need = checkpoint.bytes_as_float() * _SPARE_DISK
    free = shutil.disk_usage(parent).free
    if free < need:
        raise UsageError(f"{parent} has {in_bytes(free)} free, the bundle may need {in_bytes(need)}; give another folder")
