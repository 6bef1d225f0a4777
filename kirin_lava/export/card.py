"""The README.md of a bundle: a model card in the form that model hubs read."""

from __future__ import annotations

import json
from typing import Any

from kirin_lava.recipe import Recipe

__all__ = ["model_card"]


def model_card(source: dict[str, Any], recipe: Recipe) -> str:
    """Where the bundle comes from, how it was made and how to use it. The same text for the same export."""
    calibration = source["calibration"]
    quoted = json.dumps(source["name"])  # a JSON string is a YAML string, whatever is in the name
    revision = f" at revision `{source['revision']}`" if source["revision"] else ""
    return f"""---
base_model: {quoted}
library_name: kirin-lava
tags: [spiking-neural-network, lava, quantized]
---
# A spiking language model

Converted by kirin-lava from {quoted}{revision} with the recipe `recipe.yaml` ({recipe.name}: {recipe.description}).
Calibrated on {calibration["rows"]} rows of {calibration["tokens_per_row"]} tokens ({calibration["text"]}).

`manifest.json` says what every file is and what was verified. `net/` holds one file per linear segment, which unmodified
lava-dl loads; `kirin-lava run` generates text, `kirin-lava verify` compares every integer.
"""
