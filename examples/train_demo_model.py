"""Train the models that are embedded in the package, on stories from `story_grammar.py`.

    python examples/train_demo_model.py --family all --output kirin_lava/models/data
    python examples/train_demo_model.py --family all --output kirin_lava/models/data --evaluate

writes OUTPUT/demo-llama, OUTPUT/demo-opt and OUTPUT/demo-gpt2 in the Hugging Face layout, some ten minutes each on one core.
Every story is seen once, so that the loss that is printed is a loss on unseen text.
The shipped weights are float16: the trained ones rounded once, and whatever is measured is measured on the rounded.

Deterministic: one thread, deterministic algorithms, one seed for data, tokenizer and weights. The same seed gives
the same bytes for a given build of torch on a given kind of processor (the order of a float32 sum is theirs).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from story_grammar import SEED, stories, stories_of

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VOCABULARY = 1280
CONTEXT = 256
TOKENIZER_STORIES = 3000  # enough for every word of the grammar to be frequent
STEPS = 5000
SHORT = 128  # tokens in a row during the first third of the steps: what is near is learned first, and cheaper
BATCH = 1024  # tokens in one step
WARM_UP = 100
PEAK_RATE = 3e-3
WEIGHT_DECAY = 0.1
EVALUATION = Path(__file__).resolve().parents[1] / "kirin_lava" / "models" / "data" / "text" / "evaluation.txt"


EMBEDDING_SPREAD = 0.3
FINAL_GAIN = 0.35  # of the last norm: undoes the wide spread in the first logits


@dataclass(frozen=True)
class Family:
    """One embedded model: its folder, its Hugging Face class, what its card says of it, and how long it is trained."""

    folder: str
    build: Callable[[], PreTrainedModel]
    summary: str
    steps: int = STEPS


def build_llama() -> PreTrainedModel:
    """Grouped-query attention (8 heads over 4), rotary positions, SwiGLU, RMSNorm, tied embeddings."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=224,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.09,
        **SPECIAL,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def build_opt() -> PreTrainedModel:
    """Learned positions, LayerNorm before each part, biases, a ReLU in the middle of the MLP, tied embeddings."""
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=CONTEXT,
        do_layer_norm_before=True,
        activation_function="relu",
        dropout=0.0,
        layerdrop=0.0,
        init_std=0.09,
        tie_word_embeddings=True,
        **SPECIAL,
    )
    return OPTForCausalLM._from_config(config, attn_implementation="sdpa")


def build_gpt2() -> PreTrainedModel:
    """Learned positions, LayerNorm before each part, biases, GELU in its tanh form, transposed matrices, tied embeddings."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=128,
        n_inner=256,
        n_layer=4,
        n_head=8,
        n_positions=CONTEXT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.09,
        **SPECIAL,
    )
    return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")


FAMILIES = {
    "llama": Family("demo-llama", build_llama, "Llama (grouped-query attention, RoPE, SwiGLU, RMSNorm, tied embeddings)"),
    "opt": Family("demo-opt", build_opt, "OPT (learned positions, pre-LayerNorm, biases, ReLU MLP, tied embeddings)"),
    "gpt2": Family(
        "demo-gpt2", build_gpt2, "GPT-2 (learned positions, pre-LayerNorm, biases, GELU MLP, tied embeddings)", 2500
    ),
}

CARD = """---
license: bsd-3-clause
language: en
library_name: transformers
pipeline_tag: text-generation
---
# {folder}

A very small language model that tells children's stories. Architecture: {summary}.
It is embedded in Kirin-Lava so that a conversion can be tried and tested without a download. It is a test piece: it
knows the few hundred words of its grammar and nothing else.

* Training text: stories from a seeded grammar, `examples/story_grammar.py`, written for this project. No other text.
* Tokenizer: byte-level BPE trained on the same stories; `<s>` begins a document, `</s>` ends it.
* Made by `python examples/train_demo_model.py --family {family} --output kirin_lava/models/data` (seed {seed}, {steps} steps).
* Perplexity and samples: the same command with `--evaluate`.
* Weights: float16. Licence: BSD-3-Clause, like the rest of the project.
"""


def make_deterministic(seed: int) -> None:
    """One thread and deterministic kernels, for the whole process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def ease_copying(model: PreTrainedModel) -> None:
    """Start where copying is easy: a story repeats its names and things, and copying is the slowest part to learn.

    Embeddings lie far apart, so that names stay told apart while they all follow the same words; each head begins
    with equal query and key maps and an output map that undoes its value map, so that it looks for what is alike and
    hands it on (mimetic initialisation, Trockman and Kolter 2023, arXiv 2305.09828).
    """
    width = model.config.hidden_size
    queries = model.config.num_attention_heads
    shared = getattr(model.config, "num_key_value_heads", queries)
    head = width // queries

    def orthonormal() -> torch.Tensor:
        """Orthonormal rows, float32 [shared * head, width]."""
        return torch.linalg.qr(torch.randn(width, width)).Q[: shared * head]

    def per_query(rows: torch.Tensor) -> torch.Tensor:
        """The rows of each key/value head once for every query head it serves: float32 [width, width]."""
        return rows.view(shared, head, width).repeat_interleave(queries // shared, dim=0).reshape(width, width)

    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0.0, EMBEDDING_SPREAD)
        for name, module in model.named_modules():
            if name in ("model.norm", "model.decoder.final_layer_norm", "transformer.ln_f"):
                module.weight.fill_(FINAL_GAIN)
            if name.endswith(".self_attn"):
                value, key = orthonormal(), orthonormal()
                module.v_proj.weight.copy_(value)
                (module.o_proj if hasattr(module, "o_proj") else module.out_proj).weight.copy_(per_query(value).T)
                module.k_proj.weight.copy_(0.5 * key)
                module.q_proj.weight.copy_(0.5 * per_query(key))
            if name.endswith(".attn"):  # GPT-2: one transposed matrix for q, k and v
                value, key = orthonormal(), orthonormal()
                module.c_attn.weight.copy_(torch.cat([0.5 * key, 0.5 * key, value]).T)
                module.c_proj.weight.copy_(value)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with VOCABULARY entries; every text round-trips, BOS is put in front of it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(stories(seed), TOKENIZER_STORIES), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, SPECIAL["bos_token_id"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def documents(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Endless stories as tokens: BOS + story + EOS."""
    for story in stories(seed):
        yield [*tokenizer(story).input_ids, SPECIAL["eos_token_id"]]


def draw_batch(source: Iterator[list[int]], length: int) -> torch.Tensor:
    """Tokens of one step, int64 [BATCH // length, length].

    Each row begins with a story, as a prompt does, and goes on with the next one up to the row's end; what does not
    fit is dropped, stories are not scarce.
    """
    drawn: list[list[int]] = []
    while len(drawn) < BATCH // length:
        row: list[int] = []
        while len(row) < length:
            row += next(source)
        drawn.append(row[:length])
    return torch.tensor(drawn)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up to PEAK_RATE, then a cosine to zero."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def train(family: str, output: Path, steps: int, seed: int) -> Path:
    """Train one family and write it; returns its folder, output/demo-<family>."""
    make_deterministic(seed)
    tokenizer = train_tokenizer(seed)
    model = FAMILIES[family].build()
    ease_copying(model)
    decayed = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    print(f"{family}: {sum(parameter.numel() for parameter in model.parameters())} parameters, {steps} steps", flush=True)
    source = documents(tokenizer, seed)
    begin, recent = time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        batch = draw_batch(source, SHORT if step < steps // 3 else CONTEXT)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            seconds = time.monotonic() - begin
            print(f"{family}: step {step + 1}/{steps}  loss {recent:.3f}  {seconds:.0f} s", flush=True)
    return save(family, model, tokenizer, output, steps, seed)


def save(family: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, output: Path, steps: int, seed: int) -> Path:
    """Write model (rounded to float16), tokenizer and card; returns the folder."""
    folder = output / FAMILIES[family].folder
    model.generation_config.max_length = CONTEXT
    model.half().save_pretrained(folder, safe_serialization=True)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable by the owner alone
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")  # half the size
    card = CARD.format(family=family, steps=steps, seed=seed, folder=folder.name, summary=FAMILIES[family].summary)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """exp of the mean negative log likelihood per token; each text is BOS + text + EOS and stands alone."""
    total, count = 0.0, 0
    for text in texts:
        tokens = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            loss = model(input_ids=tokens, labels=tokens).loss
        total += loss.item() * (tokens.shape[1] - 1)
        count += tokens.shape[1] - 1
    return math.exp(total / count)


def evaluate(folder: Path, seed: int) -> None:
    """Print the float32 perplexity on evaluation.txt, a greedy story and a sampled one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = stories_of(EVALUATION.read_text(encoding="utf-8"))
    print(f"{folder.name}: perplexity {perplexity(model, tokenizer, texts):.3f} on {len(texts)} unseen stories")
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    torch.manual_seed(seed)
    for name, options in (
        ("greedy", {"do_sample": False}),
        ("sampled", {"do_sample": True, "temperature": 0.8, "top_k": 0}),
    ):
        tokens = model.generate(**prompt, **options)[0]
        print(f"\n{folder.name}, {name}: {tokenizer.decode(tokens, skip_special_tokens=True)}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or evaluate the embedded models.")
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model folders")
    parser.add_argument("--steps", type=int, help="instead of those of the family")
    parser.add_argument("--seed", type=int, default=SEED["train"])
    parser.add_argument("--evaluate", action="store_true", help="do not train: judge what is in OUTPUT")
    options = parser.parse_args()
    for family in FAMILIES if options.family == "all" else [options.family]:
        if options.evaluate:
            evaluate(options.output / FAMILIES[family].folder, options.seed)
        else:
            folder = train(family, options.output, options.steps or FAMILIES[family].steps, options.seed)
            print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
