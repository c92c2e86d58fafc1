"""UME-R1's reinforcement learning in TRL's GRPOTrainer: handwritten digits and their names.

python examples/train_trl_grpo.py                   # the bundled model, a minute on a CPU
python examples/train_trl_grpo.py --model zhibinlan/UME-R1-2B --rows train/rl.yaml --image-root train
"""

import argparse
import io
import tempfile

import numpy as np
import torch
from datasets import Dataset, Image, List
from PIL import Image as Pictures
from sklearn.datasets import load_digits
from trl import GRPOConfig, GRPOTrainer

from umer1.data.records import Pair, Side, read_rl
from umer1.embedder import BUNDLED
from umer1.integrations.trl import GenerativeRollouts
from umer1.integrations.trl_pairs import format_reward, paired_rows, rank_gap_reward
from umer1.media import blank_image
from umer1.processor import Processor


def digit_pairs(count: int = 64) -> list[Pair]:
    digits, pairs = load_digits(), []
    for image, number in zip(digits.images[:count], digits.target):
        file = io.BytesIO()
        Pictures.fromarray((255 - 15 * image).astype(np.uint8)).resize((28, 28)).save(file, "PNG")
        question = Side("What is the digit in the picture?", images=[file.getvalue()])
        pairs.append(Pair("digits", question, Side(str(number))))
    return pairs


parser = argparse.ArgumentParser()
parser.add_argument("--model", default=str(BUNDLED["tiny"]))
parser.add_argument("--rows", help="RL rows in the released format; default: digits")
parser.add_argument("--image-root", default=".")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--output", default=tempfile.gettempdir() + "/umer1-grpo")
arguments = parser.parse_args()

pairs = read_rl(arguments.rows, arguments.image_root) if arguments.rows else digit_pairs()
# what a text alone gets is a matter of the checkpoint; the bundled model's texts get nothing
blank = blank_image(Processor.load(arguments.model).limits.blank_image)
rows = Dataset.from_list(paired_rows(pairs, seed=0, blank=blank))
trainer = GRPOTrainer(
    arguments.model,
    reward_funcs=[format_reward, rank_gap_reward],
    args=GRPOConfig(
        output_dir=arguments.output,
        max_steps=arguments.steps,
        # 4 pairs a step: 2 sides of 8 completions each, learned from in 4 parts
        num_generations=8,
        per_device_train_batch_size=16,
        steps_per_generation=4,
        gradient_accumulation_steps=4,
        shuffle_dataset=False,  # both sides of a pair stay together
        max_completion_length=64 if not arguments.rows else 1024,
        # the released settings
        learning_rate=1e-6,
        beta=0.04,
        epsilon_high=0.28,
        loss_type="grpo",
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=rows.cast_column("images", List(Image())),
    rollout_func=GenerativeRollouts(),
)
trainer.train()
for step in trainer.state.log_history[: arguments.steps]:
    print(
        f"step {step['step']}: reward {step['reward']:.3f}",
        f"format {step['rewards/format_reward/mean']:.2f}",
        f"rank {step['rank']:.2f} gap {step['gap']:.2f}",
    )
