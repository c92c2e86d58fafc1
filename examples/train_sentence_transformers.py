"""Train the discriminative vectors of UME-R1 with SentenceTransformerTrainer: digits to their names.

python examples/train_sentence_transformers.py      # the bundled model, a minute on a CPU

Of a real checkpoint load float32 weights (dtype=torch.float32) and set bf16=True in the arguments.
"""

import argparse
import tempfile

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sklearn.datasets import load_digits

from umer1.integrations.sentence_transformers import to_sentence_transformer
from umer1.integrations.sentence_transformers_losses import CachedInfoNCELoss

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--output", help="save the trained model here")
arguments = parser.parse_args()

digits = load_digits()
names = "zero one two three four five six seven eight nine".split()
pictures = [
    Image.fromarray((255 - 15 * image).astype(np.uint8)).convert("RGB").resize((28, 28))
    for image in digits.images[:400]
]
pairs = Dataset.from_dict(
    {"anchor": pictures[:300], "positive": [f"the digit {names[n]}" for n in digits.target[:300]]}
)

model = to_sentence_transformer(arguments.model, dtype=torch.float32)
# of UME-R1: both directions, each its own softmax. Mini-batches of 4 bound the memory, not the loss
loss = CachedInfoNCELoss(model, scale=50.0, mini_batch_size=4,
                         directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")  # fmt: skip


def accuracy() -> float:
    classes = model.encode_document([f"the digit {name}" for name in names])
    found = model.similarity(model.encode_query(pictures[300:]), classes).argmax(1)
    return float(np.mean(found.numpy() == digits.target[300:400]))


print(f"accuracy before: {accuracy():.2f}")
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        output_dir=arguments.output or tempfile.mkdtemp(),
        max_steps=arguments.steps,
        per_device_train_batch_size=8,
        learning_rate=2e-4,
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # a name is in a batch once
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=pairs,
    loss=loss,
)
trainer.train()
print(f"accuracy after:  {accuracy():.2f}")
if arguments.output:
    model.save_pretrained(arguments.output)
