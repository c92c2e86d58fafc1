"""The losses in a Hugging Face Trainer, with the two traps of gradient accumulation avoided.

python examples/losses_hf_trainer.py            # some ten seconds on a CPU

LinearLossMixin replaces a causal language model's loss over materialised logits. The trap: with
gradient accumulation a Trainer passes num_items_in_batch, the number of scored tokens of *all*
micro-batches, and does not divide the loss any more; a mean per micro-batch then gives too large a
step and weighs tokens of short batches more. Right is the sum of the token losses divided by it.
(For a Qwen2-VL, `apply_umer1_kernels(model)` does this inside the model and needs no mixin. The
mixin is for any decoder with a linear head. Under FSDP or ZeRO-3 the head's weight is sharded
outside its module: use apply_umer1_kernels there.)

ContrastiveLossMixin takes batches {"query": inputs, "target": inputs}. The trap: compute_loss_func=
turns the Trainer's division by the number of micro-steps off, so a contrastive loss passed that way
trains at a multiple of the intended step. A compute_loss method that says so is divided. Negatives
come from one micro-batch: accumulation does not add any (losses_grad_cache.py does).
Numerics: as the losses replaced, with float32 logits whatever the model's dtype.
"""

import tempfile

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import (
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

from umer1_kernels import info_nce, linear_cross_entropy


class LinearLossMixin:
    """class MyTrainer(LinearLossMixin, Trainer): the model's own loss, without its logits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        # logits of one position: the model wants to make some; states are kept for the backward anyway
        outputs = model(**inputs, logits_to_keep=1, output_hidden_states=True)
        head = self.accelerator.unwrap_model(model).get_output_embeddings().weight
        loss = linear_cross_entropy(
            outputs.hidden_states[-1][:, :-1].flatten(0, 1),
            head,
            labels[:, 1:].flatten(),
            reduction="mean" if num_items_in_batch is None else "sum",
        )
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
            if self.args.average_tokens_across_devices:
                # the tokens of all processes were counted, and their gradients will be averaged
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


class ContrastiveLossMixin:
    """Vectors: the final state of each row's last token. Give the Trainer
    remove_unused_columns=False and a collator that makes {"query": ..., "target": ...}.
    """

    loss_is_scaled_for_ga = False  # a mean over this micro-batch: divide it by their number

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        query, target = (self.embed(model, inputs[side]) for side in ("query", "target"))
        loss = info_nce(query, target, scale=50.0)
        return (loss, {"query": query, "target": target}) if return_outputs else loss

    def embed(self, model, inputs) -> Tensor:
        outputs = model(**inputs, logits_to_keep=1, output_hidden_states=True)
        last = inputs["attention_mask"].sum(1) - 1
        rows = torch.arange(len(last), device=last.device)
        return F.normalize(outputs.hidden_states[-1][rows, last].float(), dim=1)


class LinearLossTrainer(LinearLossMixin, Trainer):
    pass


class ContrastiveTrainer(ContrastiveLossMixin, Trainer):
    pass


class WrongTrainer(LinearLossTrainer):
    """The first trap: a mean per micro-batch."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs, return_outputs, None)


def tiny_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def step(
    trainer_class: type[Trainer], rows: list, batch: int, accumulation: int, collate
) -> dict[str, Tensor]:
    """What one optimizer step of plain SGD takes off each weight: the gradient it used."""
    model = tiny_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch, learning_rate=1.0,
            gradient_accumulation_steps=accumulation, max_steps=1, optim="sgd", max_grad_norm=0.0,
            lr_scheduler_type="constant", report_to=[], save_strategy="no", disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False, logging_strategy="no",
        )  # fmt: skip
        trainer = trainer_class(
            model=model, args=arguments, train_dataset=rows, data_collator=collate
        )
        trainer.remove_callback(PrinterCallback)
        trainer._get_train_sampler = lambda *_: SequentialSampler(rows)
        trainer.train()
    return {name: before[name] - value.detach() for name, value in model.named_parameters()}


def pad(rows: list[Tensor]) -> dict[str, Tensor]:
    """Padded on the right with 0."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    }


def language_batch(rows: list[Tensor]) -> dict[str, Tensor]:
    batch = pad(rows)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def pair_batch(rows: list[tuple[Tensor, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {"query": pad([row[0] for row in rows]), "target": pad([row[1] for row in rows])}


def compare() -> dict:
    """Relative difference of the step from the one without accumulation."""
    torch.manual_seed(0)
    rows = [torch.randint(2, 64, (length,)) for length in (4, 17, 9, 6)]
    whole = step(LinearLossTrainer, rows, 4, 1, language_batch)
    own = step(Trainer, rows, 4, 1, language_batch)
    pairs = [(torch.randint(2, 64, (5,)), torch.randint(2, 64, (7,))) for _ in range(6)]
    halves = [step(ContrastiveTrainer, pairs[k : k + 3], 3, 1, pair_batch) for k in (0, 3)]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    return {
        "linear loss, the model's own loss": difference(whole, own),
        "linear loss, 4 micro-batches": difference(
            step(LinearLossTrainer, rows, 1, 4, language_batch), whole
        ),
        "wrong: mean of each micro-batch": difference(
            step(WrongTrainer, rows, 1, 4, language_batch), whole
        ),
        "contrastive, 2 micro-batches against the mean of two steps": difference(
            step(ContrastiveTrainer, pairs, 3, 2, pair_batch), mean
        ),
    }


def difference(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    squares = sum(((got[name] - expected[name]) ** 2).sum() for name in expected)
    return (squares / sum((value**2).sum() for value in expected.values())).sqrt().item()


if __name__ == "__main__":
    for name, value in compare().items():
        print(f"{name:62s}{value:.1e}")
