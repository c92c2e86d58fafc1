"""decode_attention: one query per row against a prompt that G rows share and each row's own suffix, over some layers.

B = P * G rows, Hq and Hkv heads of size D, prefixes of `prefix` keys, suffixes of `suffix` keys on average. The layers'
keys and values are more than the caches hold, as in a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench.case import OURS, Case, Expected, Problem, Traffic, Variant
from bench.graphs import in_graph
from bench.suites.ours import backend_of, describe

PAGE = 64
TABLES = ("prefix_table", "prefix_length", "prefix_of", "suffix_table", "suffix_length")


def dense(pages: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Pages [pages, Hkv, PAGE, D] -> [B, Hkv, longest, D]: every row's prefix and suffix, then padding (zeros)."""
    prefix, suffix = inputs["prefix_length"][inputs["prefix_of"].long()], inputs["suffix_length"]
    place = torch.arange(int((prefix + suffix).max()), device=pages.device)
    in_prefix = place < prefix[:, None]
    own = torch.where(in_prefix, place, place - prefix[:, None])
    own = torch.where(place < (prefix + suffix)[:, None], own, 0)
    table = inputs["prefix_table"][inputs["prefix_of"].long()]
    page = torch.where(
        in_prefix,
        table.gather(1, (own // PAGE).clamp_max(table.shape[1] - 1)),
        inputs["suffix_table"].gather(1, (own // PAGE).clamp_max(inputs["suffix_table"].shape[1] - 1)),
    )  # fmt: skip
    found = pages[page.long(), :, own % PAGE].transpose(1, 2)
    return torch.where((place < (prefix + suffix)[:, None])[:, None, :, None], found, 0.0)


def padded(query, dense_key, dense_value, mask, **paged) -> Tensor:
    """SDPA over keys that lie side by side in memory, padded to the longest row: a static cache, prompts copied."""
    layers, rows, kv_heads = dense_key.shape[:3]
    grouped = query.view(rows, kv_heads, -1, query.shape[2])
    found = [F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
             for key, value in zip(dense_key, dense_value, strict=True)]  # fmt: skip
    return torch.stack(found).view(layers, *query.shape)


def gathered(query, key_pages, value_pages, dense_key, dense_value, mask, **tables) -> Tensor:
    """SDPA after the rows' pages have been gathered."""
    rows, kv_heads = query.shape[0], key_pages.shape[2]
    grouped = query.view(rows, kv_heads, -1, query.shape[2])
    found = []
    for keys, values in zip(key_pages, value_pages, strict=True):
        key, value = (dense(pages, tables) for pages in (keys, values))
        found.append(F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask))
    return torch.stack(found).view(len(key_pages), *query.shape)


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Case):
    suite = "decode_attention"
    prompts: int
    rollouts: int
    prefix: int
    suffix: int
    layers: int
    heads: int = 12
    kv_heads: int = 2
    head_size: int = 128

    def sizes(self):
        return {"B": self.prompts * self.rollouts, "G": self.rollouts, "prefix": self.prefix,
                "suffix": self.suffix, "Hq": self.heads, "Hkv": self.kv_heads, "D": self.head_size,
                "layers": self.layers}  # fmt: skip

    def small(self):
        return replace(self, prompts=2, rollouts=2, prefix=9, suffix=4, layers=1, head_size=16)

    def build(self, device):
        generator = torch.Generator(device).manual_seed(0)
        normal = lambda *shape: torch.randn(*shape, generator=generator, device=device).to(
            self.dtype
        )
        whole = {"dtype": torch.int32, "device": device}
        rows = self.prompts * self.rollouts
        # lengths differ by half either way, as those of rows in flight do
        share = torch.linspace(0.5, 1.5, rows, device=device)[
            torch.randperm(rows, generator=generator, device=device)
        ]
        suffix = (self.suffix * share).ceil().int()
        width = -(-self.prefix // PAGE), -(-int(suffix.max()) // PAGE)
        count = self.prompts * width[0] + rows * width[1]
        number = torch.randperm(count, generator=generator, device=device).int()
        inputs = {
            "query": normal(rows, self.heads, self.head_size),
            "key_pages": normal(self.layers, count, self.kv_heads, PAGE, self.head_size),
            "value_pages": normal(self.layers, count, self.kv_heads, PAGE, self.head_size),
            "prefix_table": number[: self.prompts * width[0]].view(self.prompts, width[0]),
            "prefix_length": torch.full((self.prompts,), self.prefix, **whole),
            "prefix_of": torch.arange(rows, **whole) // self.rollouts,
            "suffix_table": number[self.prompts * width[0] :].view(rows, width[1]),
            "suffix_length": suffix,
        }
        for name in ("key", "value"):
            stores = [dense(pages, inputs) for pages in inputs[f"{name}_pages"]]
            inputs[f"dense_{name}"] = torch.stack(stores)
        length = self.prefix + suffix
        place = torch.arange(int(length.max()), device=device)
        inputs["mask"] = (place < length[:, None])[:, None, None]
        return Problem(inputs)

    def variants(self, device):
        backend = backend_of(device)

        def ours(query, key_pages, value_pages, dense_key, dense_value, mask, **tables) -> Tensor:
            groups = None
            if backend == "triton":  # once per step
                heads = query.shape[1] // key_pages.shape[2]
                count = len(tables["prefix_length"])
                groups = kernels.prefix_groups(tables["prefix_of"], count, heads)
            return torch.stack([
                kernels.decode_attention(query, keys, values, **tables, groups=groups, backend=backend)
                for keys, values in zip(key_pages, value_pages, strict=True)
            ])  # fmt: skip

        found = [
            Variant(OURS, OURS, ours),
            Variant(
                "sdpa-padded", "eager", padded, "keys side by side, prompts copied to each row"
            ),
            Variant("sdpa-gathered", "eager", gathered, "pages gathered at every step"),
        ]
        # a GPU decodes from a graph
        return [*found, *map(in_graph, found[:2])] if device.type == "cuda" else found

    def truth(self, problem):
        inputs = problem.inputs
        query, stores = inputs["query"].double(), (inputs["dense_key"], inputs["dense_value"])
        # layer by layer: all of them in float64 may be more than the device holds
        found = [
            padded(query, *(store[layer : layer + 1].double() for store in stores), inputs["mask"])
            for layer in range(self.layers)
        ]
        return {"output": Expected(None, torch.cat(found))}

    def traffic(self, problem):
        keys = problem.inputs["prefix_length"].sum() + problem.inputs["suffix_length"].sum()
        each = (
            2
            * self.layers
            * self.kv_heads
            * self.head_size
            * problem.inputs["query"].element_size()
        )
        return Traffic(int(keys) * each, problem.inputs["query"].device)

    def explain(self, problem):
        inputs = problem.inputs
        pages = inputs["key_pages"][0], inputs["value_pages"][0]
        tables = {name: inputs[name] for name in TABLES}
        backend = backend_of(inputs["query"].device)
        return describe(
            kernels.decode_attention, inputs["query"], *pages, **tables, backend=backend
        )


def _case(prompts, rollouts, prefix, suffix, layers, dtype=torch.bfloat16) -> DecodeAttention:
    kind = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    name = f"p{prompts}-g{rollouts}-prefix{prefix}-suffix{suffix}-{kind}"
    return DecodeAttention(
        name=name, dtype=dtype, prompts=prompts, rollouts=rollouts, prefix=prefix, suffix=suffix,
        layers=layers,
    )  # fmt: skip


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        return [_case(2, 4, 128, 40, 4), _case(3, 1, 128, 40, 4)]
    if device == "cuda":
        return [_case(*shape, layers=28) for shape in (
            (8, 1, 1000, 150), (8, 8, 1000, 150), (32, 8, 300, 150), (32, 8, 1000, 150),
            (32, 8, 3000, 150), (256, 1, 1000, 150),
        )]  # fmt: skip
    return [
        _case(1, 1, 400, 100, 28),
        _case(8, 1, 400, 100, 14),
        _case(4, 8, 300, 100, 28),
        _case(4, 8, 1000, 150, 14),
        _case(8, 1, 400, 100, 14, torch.float32),
        _case(4, 8, 300, 100, 14, torch.float32),
    ]
