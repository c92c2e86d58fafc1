"""LoRA on the decoder, through PEFT, with adapters that PEFT on transformers' model reads as well.

The decoder's products are fused: one adapter on "qkv" stands for three on q_proj, k_proj and v_proj with
the same A, whose B are its rows; "gate_up" likewise. `save_adapters` writes them as those, exactly. The rows of the
embedding tokens are learnt beside them (umer1/model/learned_rows.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from umer1.model.decoder import DecoderLayer
from umer1.model.key_names import pairs_apart
from umer1.model.learned_rows import learn_rows, learned_rows
from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.settings import LoRAConfig

# our product -> those of a checkpoint, in the order of our rows
PRODUCTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_ADAPTER = "default"


def add_lora(
    model: Qwen2VL, settings: LoRAConfig, rows: Sequence[int] = (), *, head: bool = True
) -> None:
    """Puts adapters around the chosen products of every decoder layer, in place; all else stays as it is.

    B starts at zero: the model computes what it did.

    Args:
        rows: of the embedding table, learnt too. A token whose row is another's copy is never written otherwise.
        head: and those of a head of its own.

    Raises:
        ImportError: PEFT is not installed. ValueError: a setting is wrong.
    """
    targets = _targets(settings)
    if settings.rank < 1 or settings.alpha <= 0 or not 0 <= settings.dropout < 1:
        raise ValueError(
            f"lora: got rank {settings.rank}, alpha {settings.alpha}, dropout {settings.dropout}; "
            "wants rank >= 1, alpha > 0, 0 <= dropout < 1"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("lora: needs PEFT: pip install peft") from None
    learned = {name for name, each in model.named_parameters() if each.requires_grad}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"decoder\.layers\.\d+\.({'|'.join(targets)})",
    )
    inject_adapter_in_model(config, model, _ADAPTER)
    if rows:
        learn_rows(model, rows, head=head)
    for name, parameter in model.named_parameters():  # PEFT froze everything but its own
        parameter.requires_grad_(name in learned or ".lora_" in name)


@contextmanager
def merged(model: Qwen2VL) -> Iterator[Qwen2VL]:
    """Adapters are part of the weights inside the block, which are the same bits again after it.

    Without adapters nothing happens. For a save, or for many forwards without gradients.
    """
    layers, tables = lora_layers(model), learned_rows(model)
    before = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    rows_before = [table.weight[list(table.rows)].detach() for table in tables]
    for layer in layers:
        layer.merge()
    for table in tables:
        table.write(table.learned())
        table.enabled = False
    try:
        yield model
    finally:
        for layer, weight in zip(layers, before):
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)
        for table, rows in zip(tables, rows_before):
            table.write(rows)
            table.enabled = True


@contextmanager
def without_adapters(model: Qwen2VL) -> Iterator[Qwen2VL]:
    """The model as it was before LoRA, inside the block: a reference policy that costs no memory."""
    layers = lora_layers(model)
    if not layers:
        raise ValueError("without_adapters: the model has none")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tables = learned_rows(model)
    for layer in layers:
        layer.enable_adapters(False)
    for table in tables:
        table.enabled = False
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for table in tables:
            table.enabled = True
        for parameter in trained:  # PEFT's switch froze the adapters
            parameter.requires_grad_(True)


@torch.no_grad()
def save_adapters(model: Qwen2VL, settings: LoRAConfig, directory: Path, base: str = "") -> None:
    """`adapter_model.safetensors` and `adapter_config.json` for PEFT on transformers' Qwen2-VL.

    They hold the adapters alone, with the learned rows as PEFT's trainable tokens: a merger that was trained beside
    them is in the merged model.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(model.decoder.layers):
        for target in _targets(settings):
            tensors |= _products(layer, target, f"model.language_model.layers.{number}.")
    tokens = {}
    for table in learned_rows(model):
        name = "lm_head" if table is model.head else "model.language_model.embed_tokens"
        tokens[name.rpartition(".")[2]] = list(table.rows)
        key = f"base_model.model.{name}.token_adapter.trainable_tokens_delta"
        tensors[key] = table.learned().cpu()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    names = "|".join(
        name.replace(".", r"\.") for each in _targets(settings) for name in PRODUCTS[each]
    )
    LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"model\.language_model\.layers\.\d+\.({names})",
        trainable_token_indices=tokens or None,
        base_model_name_or_path=base or None,
        inference_mode=True,
    ).save_pretrained(directory)


def lora_layers(model: nn.Module) -> list:
    """PEFT's layers in the model; none without LoRA."""
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def _targets(settings: LoRAConfig) -> list[str]:
    targets = [name.strip() for name in settings.targets.split(",") if name.strip()]
    unknown = [name for name in targets if name not in PRODUCTS]
    if unknown or not targets:
        raise ValueError(
            f"lora.targets: got {settings.targets!r}, wants some of {', '.join(PRODUCTS)}"
        )
    return targets


def _products(layer: DecoderLayer, target: str, prefix: str) -> dict[str, Tensor]:
    """The adapter of one fused product as those of the checkpoint's products."""
    adapter = getattr(layer, target)
    down, up = adapter.lora_A[_ADAPTER].weight, adapter.lora_B[_ADAPTER].weight
    sizes = [len(up)]
    if target == "qkv":
        size = len(up) // (layer.query_heads + 2 * layer.key_heads)
        sizes = [heads * size for heads in (layer.query_heads, layer.key_heads, layer.key_heads)]
    elif target == "gate_up":
        sizes = [len(up) // 2] * 2
    tensors = {}
    for name, rows in zip(PRODUCTS[target], up.split(sizes)):
        if name.endswith(("q_proj", "k_proj")):
            rows = pairs_apart(rows, size).flatten(0, 2)
        key = f"base_model.model.{prefix}{name}"
        tensors[f"{key}.lora_A.weight"] = down.detach().cpu().clone()
        tensors[f"{key}.lora_B.weight"] = rows.detach().cpu().contiguous()
    return tensors
