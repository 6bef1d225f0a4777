"""Train the encoder that is embedded in the package: it tells which story a sentence belongs to, see `story_plots.py`.

    python examples/train_demo_encoder.py --output kirin_lava/models/data
    python examples/train_demo_encoder.py --output kirin_lava/models/data --evaluate

writes OUTPUT/demo-bert in the Hugging Face layout, in a minute or two on one core. There are sixteen stories, told with other
names, places and things each time; a sentence is one of the middle of a story, and what it belongs to is the story's kind. No
telling comes twice, so that the loss that is printed is a loss on unseen text. Weights are float16, and whatever is measured is
measured on the rounded ones. Deterministic, as the other embedded models are.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from story_grammar import SEED, draw_cast, expand
from story_plots import PLOTS
from train_demo_model import BOS, EOS, PAD, VOCABULARY, learning_rate, make_deterministic, train_tokenizer

FOLDER = "demo-bert"
LABELS = (
    "lost toy",
    "stuck",
    "noise in the night",
    "learning",
    "sharing food",
    "broken toy",
    "telling the truth",
    "brought home",
    "building twice",
    "treasure",
    "patience",
    "race",
    "present",
    "quarrel",
    "somebody new",
    "lost way",
)
"""Of the stories, in the order of `PLOTS`."""
LONGEST = 64  # tokens of a sentence
STEPS = 400
BATCH = 64  # sentences
JUDGED = 1000
_END = re.compile(r"(?<=[.!?])[\"']?\s+")

CARD = """---
license: bsd-3-clause
language: en
library_name: transformers
pipeline_tag: text-classification
---
# {folder}

A very small encoder that tells which of sixteen children's stories a sentence belongs to. Architecture: BERT (learned
positions, LayerNorm behind each part, biases, GELU, a pooler).
It is embedded in Kirin-Lava so that a conversion can be tried and tested without a download. It is a test piece: it
knows the few hundred words of its grammar and nothing else.

* Training text: stories from a seeded grammar, `examples/story_grammar.py`, written for this project. No other text.
* Tokenizer: byte-level BPE trained on the same stories; `<s>` begins a sentence, `</s>` ends it.
* Made by `python examples/train_demo_encoder.py --output kirin_lava/models/data` (seed {seed}, {steps} steps).
* How many sentences it knows: the same command with `--evaluate`.
* Weights: float16. Licence: BSD-3-Clause, like the rest of the project.
"""


def build() -> PreTrainedModel:
    """Three layers of width 96."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=192,
        max_position_embeddings=LONGEST,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return BertForSequenceClassification(config)


def encoder_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """That of the other embedded models, with a mark at the end of every text."""
    tokenizer = train_tokenizer(seed).backend_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 1), (EOS, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        cls_token=BOS,
        sep_token=EOS,
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def sentences(seed: int) -> Iterator[tuple[str, int]]:
    """Endless sentences of at least four words with the number of their story, one of every telling."""
    rng = Random(seed)
    while True:
        which = rng.randrange(len(PLOTS))
        told = " ".join(expand(PLOTS[which].text, rng, draw_cast(rng)).split())
        found = [sentence.strip() for sentence in _END.split(told) if len(sentence.split()) > 3]
        yield rng.choice(found), which


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """(texts, stories)."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    found: torch.Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return found


def train(output: Path, steps: int, seed: int) -> Path:
    """Train and write the encoder; returns its folder."""
    make_deterministic(seed)
    tokenizer, model, source = encoder_tokenizer(seed), build().train(), sentences(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    print(f"{FOLDER}: {sum(parameter.numel() for parameter in model.parameters())} parameters, {steps} steps", flush=True)
    begin, recent = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        texts, stories = zip(*islice(source, BATCH), strict=True)
        loss = F.cross_entropy(logits(model, tokenizer, list(texts)), torch.tensor(stories))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"{FOLDER}: step {step + 1}/{steps}  loss {recent:.3f}  {time.monotonic() - begin:.0f} s", flush=True)
    return save(model, tokenizer, output, steps, seed)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, output: Path, steps: int, seed: int) -> Path:
    """Write model (rounded to float16), tokenizer and card; returns the folder."""
    folder = output / FOLDER
    model.half().save_pretrained(folder, safe_serialization=True)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable by the owner alone
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")  # half the size
    (folder / "README.md").write_text(CARD.format(folder=FOLDER, seed=seed, steps=steps), encoding="utf-8")
    return folder


@torch.no_grad()
def known(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> float:
    """Share of so many unseen sentences whose story is told right."""
    texts, stories = zip(*islice(sentences(seed), count), strict=True)
    found = [logits(model, tokenizer, list(texts[i : i + BATCH])).argmax(-1) for i in range(0, count, BATCH)]
    return float((torch.cat(found) == torch.tensor(stories)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or evaluate the embedded encoder.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model folder")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED["train"])
    parser.add_argument("--evaluate", action="store_true", help="do not train: judge what is in OUTPUT")
    options = parser.parse_args()
    if options.evaluate:
        folder = options.output / FOLDER
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        share = known(model, AutoTokenizer.from_pretrained(folder), JUDGED, SEED["evaluation"])
        chance = 1 / len(LABELS)
        print(f"{FOLDER}: knows the story of {100 * share:.1f} % of {JUDGED} unseen sentences; by chance {100 * chance:.1f} %")
        return
    folder = train(options.output, options.steps, options.seed)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
