"""`Embedder`: text, images and videos in; discriminative and generative vectors out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from contextlib import closing
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umer1.collecting import collect, finished_items
from umer1.embeddings import Embeddings
from umer1.engine import Engine, Generated, NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.named import engine_name, open_engine
from umer1.hub import SMALL_FILES, local_directory
from umer1.model.checkpoint import load_model, read_config
from umer1.model.packed_weights import PackedWeights, inference_dtype, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.prompt_limit import PromptLimit
from umer1.prompts import parse_item
from umer1.turns import Turns

log = logging.getLogger("umer1")
BUNDLED = {"tiny": Path(__file__).parent / "assets" / "tiny"}


class Embedder:
    """One Qwen2-VL model with `<gen_emb>` and `<disc_emb>`, and its processor.

    It may be called from several threads: a call waits for the ones under way, a stream ends when it is read to its end
    or closed. A call beside an unfinished stream of the same thread is a RuntimeError.

    Args:
        engine: what runs the model; default: a NativeEngine, made when it is first needed.
        packed: what packed the model's weights, if anything did.
    """

    def __init__(
        self,
        model: Qwen2VL,
        processor: Processor,
        *,
        engine: Engine | None = None,
        packed: PackedWeights | None = None,
    ):
        self.model, self.processor, self.packed = model.eval(), processor, packed
        self._engine = engine
        self._turns = Turns()

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        engine: str = "native",
    ) -> Embedder:
        """Load the bundled model ("tiny"), a Hugging Face directory, or a hub id ("zhibinlan/UME-R1-2B").

        Args:
            device: default: CUDA where there is one, else the CPU.
            dtype: default: bfloat16 on CUDA. On the CPU bfloat16 if the CPU multiplies it natively, the checkpoint is no
                more precise, and the model has more than 50 M parameters: then it is 1.7 times as fast (0.1 B, AVX512-BF16).
                Otherwise float32: the bundled model gains nothing by bfloat16, and writes another word in 3 texts of 100.
            engine: "native"; "hf": transformers' own model and generate(), slow, to compare with; "vllm:URL" or
                "sglang:URL": servers that run the same checkpoint (several: URL,URL), their API key in
                UMER1_ENGINE_KEY. With "hf" and SGLang `model` has no weights.
        """
        named = engine_name(engine)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        source = BUNDLED.get(str(name), name)
        front = cls.without_weights(source)
        processor = front.processor
        dtype = dtype or inference_dtype(front.model.config, device)
        if not named.needs_model:
            model = front.model.to(dtype)
            runs = open_engine(named, model, processor, source=source, device=device)
            return cls(model, processor, engine=runs)
        model = load_model(source, dtype=dtype, device=device)
        packed = pack_weights(model) if device.type == "cpu" else None
        if named.kind == "native":
            return cls(model, processor, packed=packed)
        runs = open_engine(named, model, processor, packed=packed)
        return cls(model, processor, engine=runs, packed=packed)

    @classmethod
    def without_weights(cls, name: str | Path) -> Embedder:
        """The processor and the shape of a model that runs elsewhere: it makes prompts (`prompt`) and
        reads what came of them (`collect`), and computes nothing."""
        source = BUNDLED.get(str(name), name)
        with torch.device("meta"):
            model = Qwen2VL(read_config(local_directory(source, SMALL_FILES)))
        return cls(model, Processor.load(source))

    @property
    def dimension(self) -> int:
        return self.model.config.hidden_size

    @property
    def engine(self) -> Engine:
        """What runs the model; `sleep()` gives back its memory until the next `wake()`."""
        if self._engine is None:
            special = SpecialTokens.of(self.processor)
            self._engine = NativeEngine(self.model, special, packed=self.packed)
        return self._engine

    def encode(
        self,
        items: Any,
        mode: str = "both",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        n: int = 1,
        seed: int | List[int] = 0,
        batch_size: int = 32,
        progress: bool = True,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str = "first",
        max_think_tokens: int | None = None,
        readout: str = "at",
    ) -> Embeddings:
        """Embed items.

        Args:
            items: one item or a list; an item is a string, a PIL image, a list of Qwen messages, or a dict with any of
                text, image, images, video, instruction.
            mode: "disc" (one forward), "gen" (reason, summarise, then read) or "both" (from the same prefill).
            max_new_tokens, temperature, top_p, top_k: of the generation, see `Sampling`.
            n: samples per item; needs temperature > 0 when above 1.
            seed: of the sampling; with a list each item has its own, and the same item with the same seed gets the same
                samples in any call.
            batch_size: rows computed together; changes no vector.
            stop: "first" ends at the first generated `<gen_emb>`; "eos" goes on to the end of the turn and takes the
                last one, as the released evaluation does.
            max_think_tokens: `</think>` is written for the model after so many tokens (None: never).
            readout: the disc vector is read "at" `<disc_emb>` (as trained) or one token "after" it (as the released
                evaluation does).

        Raises:
            ValueError: a bad argument, or a bad item (the message names its number and field).
        """
        if not isinstance(items, (list, tuple)) or _is_messages(items):
            items = [items]
        sampling = Sampling(max_new_tokens, temperature, top_p, top_k, 0, stop, max_think_tokens)
        results = [None] * len(items)
        written, began = 0, time.monotonic()
        total = len(items) * (1 if mode == "disc" else n)
        with progress_bar(f"embed ({mode})", total, unit="embeddings", show=progress) as bar:
            running = self._run(
                items, range(len(items)), mode, sampling, n, seed, batch_size, readout
            )
            with closing(running):
                for number, result in running:
                    results[number] = result
                    written += sum(len(rollout.tokens) for rollout in result.rollouts)
                    rate = {"tokens/s": written / (time.monotonic() - began)} if written else {}
                    bar.advance(1 if mode == "disc" else n, **rate)
        embeddings = self.collect(results, mode, n)
        _warn_of_misses(embeddings.hit)
        return embeddings

    def stream(
        self,
        items: List[Any],
        mode: str = "both",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        n: int = 1,
        seed: int | List[int] = 0,
        batch_size: int = 32,
        *,
        numbers: List[int] | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str = "first",
        max_think_tokens: int | None = None,
        readout: str = "at",
        on_bad: Callable[[int, Exception], None] | None = None,
    ) -> Iterator[tuple[int, Embeddings]]:
        """`encode`, item by item: (place in `items`, embeddings of this one item) as they finish, in any order.

        Args:
            numbers: what the items are called for seeding; default their places. With their numbers from the whole list,
                the rest of an interrupted run gets the samples it would have had.
            on_bad: called with the place of an item whose media cannot be used or whose prompt is too long, and why; the
                others go on. Default: the error ends the stream.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, top_k, 0, stop, max_think_tokens)
        numbers = range(len(items)) if numbers is None else numbers
        hits = []
        running = self._run(items, numbers, mode, sampling, n, seed, batch_size, readout, on_bad)
        with closing(running):
            for place, result in running:
                embeddings = self.collect([result], mode, n)
                hits.append(embeddings.hit)
                yield place, embeddings
        if mode != "disc" and hits:
            _warn_of_misses(np.concatenate(hits))

    def _run(
        self,
        items: List[Any],
        numbers: List[int],
        mode: str,
        sampling: Sampling,
        n: int,
        seed: int | List[int],
        batch_size: int,
        readout: str,
        on_bad: Callable[[int, Exception], None] | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """(place, result) of items whose samples have all finished."""
        if mode not in ("disc", "gen", "both"):
            raise ValueError(f"mode: got {mode!r}, wants 'disc', 'gen' or 'both'")
        if readout not in ("at", "after"):
            raise ValueError(f"readout: got {readout!r}, wants 'at' or 'after'")
        if n < 1 or (n > 1 and sampling.temperature == 0):
            raise ValueError(
                f"n: got {n} with temperature {sampling.temperature}; several samples need a "
                "temperature above 0"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, wants at least 1")
        for name, values in (("seed", seed), ("numbers", numbers)):
            if not isinstance(values, Integral) and len(values) != len(items):
                raise ValueError(f"{name}: got {len(values)} numbers for {len(items)} items")
        parsed = [parse_item(item, where=f"item {place}") for place, item in enumerate(items)]
        if isinstance(seed, Integral):
            sampling, seed = replace(sampling, seed=int(seed)), [None] * len(items)
        samples = 0 if mode == "disc" else n
        new_tokens = sampling.max_new_tokens if samples else 0
        with self._turns.take("this Embedder"):
            if isinstance(self.engine, NativeEngine):
                self.engine.resize(batch_size)
            limit = PromptLimit.of(self.model.config, self.engine, new_tokens)
            prompts = self._prompts(parsed, numbers, mode, seed, readout, limit, on_bad)
            with closing(finished_items(self.engine, prompts, sampling, samples)) as finished:
                for each in finished:
                    yield each
                    self._turns.move_here()

    def _prompts(
        self,
        parsed: List[Any],
        numbers: List[int],
        mode: str,
        seeds: List[int | None],
        readout: str,
        limit: PromptLimit,
        on_bad: Callable[[int, Exception], None] | None,
    ) -> Iterator[tuple[int, Prompt]]:
        """(place, prompt), made as the engine asks for them: their pixels need not all be in memory."""
        for place, (item, number, seed) in enumerate(zip(parsed, numbers, seeds)):
            try:
                made = self.prompt(item, mode, number=number, seed=seed, readout=readout)
                limit.check(len(made.sequence), f"item {place}")
            except (ValueError, OSError) as error:
                if on_bad is None:
                    raise
                on_bad(place, error)
                continue
            yield place, made

    def prompt(
        self,
        item: Any,
        mode: str = "both",
        *,
        number: int = 0,
        seed: int | None = None,
        readout: str = "at",
    ) -> Prompt:
        """What the engine computes for one item, its media opened and cut into patches. May be
        called in any thread.

        Args:
            number, seed: see `Prompt`.
        """
        processor = self.processor
        if mode == "disc":
            sequence = processor.encode(item, mode="disc", readout=readout)
            return Prompt(sequence, number, len(sequence) - 1)
        sequence = processor.encode(item, mode="gen")
        after = int(readout == "after")
        place = processor.disc_position(sequence) + after if mode == "both" else None
        return Prompt(sequence, number, place, seed)

    def collect(self, results: List[Generated], mode: str, n: int) -> Embeddings:
        """What the engine gave for the prompts of some items, as `encode` returns it. May be called
        in any thread."""
        return collect(results, mode, n, self.processor.decode, self.dimension)


def _warn_of_misses(hit: np.ndarray | None) -> None:
    if hit is not None and not hit.all():
        log.warning(
            "%d of %d generations wrote no <gen_emb>; their rows are marked in .hit and .finish",
            hit.size - int(hit.sum()),
            hit.size,
        )


def _is_messages(items: Any) -> bool:
    """A list of {"role": …} turns is one item."""
    return bool(items) and all(isinstance(turn, dict) and "role" in turn for turn in items)
