"""GenEmbHook: the generative vectors of any transformers-style generate(), one row per sequence.

`generate(output_hidden_states=True)` keeps every layer of every step to use one row per sequence.
Here a hook on the final norm copies that row when it is made. The tokens of a step come from a
stopping criterion that never stops: it is called with the sampled tokens, once per step and never
for the prompt, so a `<gen_emb>` in the prompt cannot be taken, however the prompt is read (in one
piece, in chunks, from a cache, as embeddings).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from umer1_kernels.checks import check_choice
from umer1_kernels.hidden_gather import GenerationGather

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
# generation options with which rows are reordered or one step reads several tokens
UNSUPPORTED = {
    "num_beams": "beam search reorders the rows; use sampling with num_return_sequences",
    "assistant_model": "assisted decoding reads tokens that may be rejected",
    "prompt_lookup_num_tokens": "prompt lookup reads tokens that may be rejected",
}


class GenEmbHook:
    """Collects the final state of the step that reads `token_id`, in every row of a generate().

        with GenEmbHook(model, token_id) as hook:
            tokens = model.generate(**inputs, max_new_tokens=512)
        hook.vectors[hook.hit]

    Rows are those of generate's result (num_return_sequences included). Each generate() of the
    model inside the block starts afresh; the vectors stay readable after the block. The token must
    be *read*: where it is the last token allowed or the one that stops generation no step reads it,
    which `unread` tells.

    Args:
        model: a decoder with generate(stopping_criteria=...), as transformers' models have it.
        token_id: the id of `<gen_emb>`.
        norm: the final norm, a module or its name in the model; None: found beside the input
            embedding.
        occurrence: "last" or "first", if a sequence writes the token more than once.
        normalize: divide by the L2 norm, in float32.

    Attributes:
        vectors: float32 [rows, hidden size], zero where `hit` is False.
        hit: bool [rows]: the token was generated and read.
        unread: bool [rows]: the token came last and was not read; allow one more token.

    Raises:
        ValueError: the final norm cannot be found; or, when generate() is called, beam search,
            assisted decoding, or a padding token equal to token_id.
        RuntimeError: the hook did not see a step (a compiled forward), or nothing was generated.
    """

    def __init__(
        self,
        model: nn.Module,
        token_id: int,
        *,
        norm: nn.Module | str | None = None,
        occurrence: str = "last",
        normalize: bool = True,
    ):
        check_choice("occurrence", occurrence, ("last", "first"))
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise TypeError(f"token_id is {token_id!r}; it must be an int")
        if not callable(getattr(model, "generate", None)):
            raise TypeError(f"model is a {type(model).__name__}, which has no generate()")
        self.model, self.token_id = model, token_id
        self.occurrence, self.normalize = occurrence, normalize
        self._norm = _final_norm(model, norm)
        self._handle = None
        self._running = False
        self._gather: GenerationGather | None = None
        self._tokens: Tensor | None = None  # [rows], sampled and not read yet
        self._length = 0  # of the sequences when last seen; 0: not yet

    @property
    def vectors(self) -> Tensor:
        return self._result().vectors

    @property
    def hit(self) -> Tensor:
        return self._result().hit

    @property
    def unread(self) -> Tensor:
        hit = self._result().hit
        if self._tokens is None:
            return torch.zeros_like(hit)
        return self._tokens.to(hit.device) == self.token_id

    def __enter__(self) -> GenEmbHook:
        if self._handle is not None:
            raise RuntimeError("this GenEmbHook is already in use; make another one")
        self._handle = self._norm.register_forward_hook(self._after_norm)
        self._generate = self.model.generate
        self._shadowed = self.model.__dict__.get("generate")
        self.model.generate = self._hooked_generate
        return self

    def __exit__(self, *error) -> None:
        self._handle.remove()
        self._handle = None
        if self._shadowed is None:
            del self.model.generate
        else:
            self.model.generate = self._shadowed

    def _hooked_generate(self, *args, **keywords):
        options = _Options(self.model, args, keywords)
        options.check(self.token_id)
        keywords["stopping_criteria"] = [*(keywords.get("stopping_criteria") or ()), self._see]
        self._gather = self._tokens = None
        self._length = 0
        self._running = True
        try:
            return self._generate(*args, **keywords)
        finally:
            self._running = False

    def _see(self, sequences: Tensor, scores, **_) -> Tensor:
        """The stopping criterion: keeps each row's new token for the step that will read it."""
        if self._gather is None or self._tokens is not None:
            raise RuntimeError(
                "GenEmbHook: the final norm ran without its hook; a forward that was compiled "
                "before does not run hooks: pass disable_compile=True to generate()"
            )
        rows, length = sequences.shape
        if rows != self._gather.hit.shape[0]:
            raise RuntimeError(
                f"GenEmbHook: generate() has {rows} rows, the final norm saw "
                f"{self._gather.hit.shape[0]}; norm= must name the decoder's final norm"
            )
        if self._length and length != self._length + 1:
            raise RuntimeError(
                f"GenEmbHook: generate() appended {length - self._length} tokens in one step; it "
                f"must sample one token at a time"
            )
        self._length = length
        self._tokens = sequences[:, -1]
        return torch.zeros(rows, dtype=torch.bool, device=sequences.device)

    def _after_norm(self, module: nn.Module, inputs, hidden) -> None:
        if not self._running:
            return
        if not isinstance(hidden, Tensor) or hidden.dim() != 3:
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise RuntimeError(
                f"GenEmbHook: the final norm returned {shape}, not [rows, tokens, hidden size]; "
                f"norm= must name the decoder's final norm"
            )
        rows, _, dim = hidden.shape
        if self._gather is None:
            self._gather = GenerationGather(
                rows, dim, self.token_id, device=hidden.device, normalize=self.normalize
            )
        if self._tokens is None:
            return  # the prompt, or a step whose result is thrown away
        slots = torch.arange(rows, device=hidden.device)
        wanted = torch.ones_like(self._gather.hit)
        if self.occurrence == "first":
            wanted = ~self._gather.hit
        # without a cache a step reads the whole sequence again: its new token is the last one
        self._gather.step_(hidden[:, -1], self._tokens.to(hidden.device), slots, wanted)
        self._tokens = None

    def _result(self) -> GenerationGather:
        if self._gather is None:
            raise RuntimeError("no generate() of the model has run inside this GenEmbHook yet")
        return self._gather


class _Options:
    """Generation options as generate() sees them: keywords, then its config, then the model's."""

    def __init__(self, model: nn.Module, args: tuple, keywords: dict[str, Any]):
        given = args[1] if len(args) > 1 else keywords.get("generation_config")
        self._sources = [given, getattr(model, "generation_config", None)]
        self._keywords = keywords

    def get(self, name: str):
        if self._keywords.get(name) is not None:
            return self._keywords[name]
        values = (getattr(source, name, None) for source in self._sources)
        return next((value for value in values if value is not None), None)

    def check(self, token_id: int) -> None:
        for name, reason in UNSUPPORTED.items():
            if self.get(name) not in (None, 0, 1):
                raise ValueError(f"GenEmbHook cannot follow generate({name}=...): {reason}")
        padding = self.get("pad_token_id")
        if padding is None:  # generate() then pads with the first end token
            end = self.get("eos_token_id")
            padding = end[0] if isinstance(end, (list, tuple)) else end
        if padding == token_id:
            raise ValueError(
                f"token_id {token_id} is also what generate() pads finished rows with; pass another "
                f"pad_token_id to generate()"
            )


def _final_norm(model: nn.Module, norm: nn.Module | str | None) -> nn.Module:
    if isinstance(norm, nn.Module):
        return norm
    if isinstance(norm, str):
        modules = dict(model.named_modules())
        if norm not in modules:
            raise ValueError(f"norm is {norm!r}; the model has no module of that name")
        return modules[norm]
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    found = {}
    for path, parent in model.named_modules():
        children = dict(parent.named_children())
        if embedding is None or all(child is not embedding for child in children.values()):
            continue
        for name in FINAL_NORMS:
            if name in children:
                found[f"{path}.{name}".lstrip(".")] = children[name]
    if len(found) != 1:
        raise ValueError(
            f"the final norm of {type(model).__name__} was not found beside its input embedding "
            f"({', '.join(found) or 'no candidate'}); name it: GenEmbHook(model, token_id, "
            f"norm='model.norm')"
        )
    return next(iter(found.values()))
