"""Where a run begins: a checkpoint with the two embedding tokens, or a small model made from scratch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from umer1.data.records import Pair
from umer1.data.sets import open_set
from umer1.data.store import PairStore
from umer1.embedder import BUNDLED
from umer1.model.checkpoint import load_model
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.tiny import build_tokenizer, tiny_config
from umer1.model.tokens import add_embedding_tokens
from umer1.processor import SFT_LIMITS, MediaLimits, Processor
from umer1.processor_files import load_tokenizer
from umer1.prompts import GENERATION_INSTRUCTION, SYSTEM_MESSAGE
from umer1.training.settings import RunConfig

# a sentence of the data becomes one token when it is this long and stands in this many records
PHRASE_CHARACTERS, PHRASE_RECORDS = 16, 40


def open_pairs(config: RunConfig, kind: str) -> PairStore:
    """The pairs that `config.data` names, of `config.sources` alone if given; kind is "sft" or "rl".

    Raises ValueError (RecordError for a bad file) naming the setting or the file.
    """
    if not config.data:
        raise ValueError("data: wants a file or registry names, got nothing")
    store = open_set(
        config.data,
        kind,
        root=config.data_path or None,
        registry=config.registry or None,
        local_folders=config.local_folders,
        human_turns=kind == "sft",
        seed=config.seed,
    )
    if kind == "sft" and config.generative and not store.has_responses:
        raise ValueError(
            f"data: {config.data} has pairs without responses (<think>… <gen_emb>), which generative "
            "SFT learns to write; set `generative: false` to train the discriminative embedding alone"
        )
    return store.of_sources(config.sources.split(",")) if config.sources else store


def start(config: RunConfig, pairs: Sequence[Pair]) -> tuple[Qwen2VL, Processor]:
    """Model and processor to train, on the CPU in float32.

    A checkpoint that lacks the two embedding tokens gets them; one without media limits of its own
    gets those of the released SFT.
    """
    if config.tiny:
        return from_scratch(config, pairs)
    if not config.model:
        raise ValueError(
            "model: wants a directory or a hub id (or settings under `tiny` to train from scratch)"
        )
    source = BUNDLED.get(config.model, config.model)
    model, tokenizer = load_model(source, dtype=torch.float32), load_tokenizer(source)
    add_embedding_tokens(model, tokenizer)
    return model, Processor.load(source, tokenizer=tokenizer, default_limits=SFT_LIMITS)


def from_scratch(config: RunConfig, pairs: Sequence[Pair]) -> tuple[Qwen2VL, Processor]:
    """A small random Qwen2-VL whose tokenizer is made from the training text."""
    settings = dict(config.tiny)
    limits = MediaLimits(**settings.pop("limits", {}))
    torch.manual_seed(config.seed)
    sides = [side for pair in pairs for side in (pair.query, pair.target)]
    phrases = fixed_phrases(side.text for side in sides)
    corpus = (text for side in sides for text in (side.text, side.response or ""))
    tokenizer = build_tokenizer(corpus, settings.pop("vocab_size", 1024), phrases)
    model = Qwen2VL(tiny_config(len(tokenizer), tokenizer, **settings))
    model.reset_parameters()
    return model, Processor.from_parts(tokenizer, limits)


def fixed_phrases(human_turns: Iterable[str]) -> list[str]:
    """Text that never varies: the chat template's, the generation instruction's, the tasks' own sentences (up to a
    colon) and the answer's tags. As single tokens they cost a small model nothing to read or write."""
    heads = (re.match("[^:]*:?", line)[0] for turn in human_turns for line in turn.split("\n"))
    counts = Counter(head for head in heads if len(head) >= PHRASE_CHARACTERS)
    lines = [line for line, count in counts.items() if count >= PHRASE_RECORDS]
    pieces = {piece for line in [*lines, GENERATION_INSTRUCTION] for piece in _between_tags(line)}
    pieces = {piece for piece in pieces if len(piece) >= PHRASE_CHARACTERS}
    fixed = (f"system\n{SYSTEM_MESSAGE}", "user\n", "assistant\n", "<think>", "</think><answer>")
    return sorted(pieces.union(fixed))


def _between_tags(line: str) -> list[str]:
    for tag in ("<gen_emb>", "<disc_emb>", "<image>", "<video>", "<think>", "</think>", "<answer>"):
        line = line.replace(tag, "\x00")
    return line.split("\x00")
