"""One process of the distributed GRPO test: `python grpo_process.py FOLDER`, ranks from the environment.

Writes what its rewards were made of, and the rewards.
"""

import os
import sys
from pathlib import Path

import datasets
import torch
from trl import GRPOConfig, GRPOTrainer

from umer1.data.records import Pair, Side
from umer1.embedder import BUNDLED
from umer1.integrations.trl import GenerativeRollouts
from umer1.integrations.trl_pairs import paired_rows, rank_gap_reward

SEEN = []


def rank_gap(**columns):
    rewards = rank_gap_reward(**columns)
    kept = {name: columns[name] for name in ("pair", "side", "gen_hit", "gen_text")}
    SEEN.append({**kept, "gen_emb": torch.stack(columns["gen_emb"]), "reward": rewards})
    return rewards


def main(folder: Path) -> None:
    words = "one two three four five six seven eight".split()
    pairs = [Pair("some", Side(f"the digit {word}"), Side(word)) for word in words]
    trainer = GRPOTrainer(
        str(BUNDLED["tiny"]),
        reward_funcs=[rank_gap],
        args=GRPOConfig(
            output_dir=str(folder), max_steps=2, per_device_train_batch_size=12, num_generations=3,
            steps_per_generation=1, gradient_accumulation_steps=1, max_completion_length=16,
            learning_rate=1e-3, shuffle_dataset=False, report_to="none", save_strategy="no",
            use_cpu=True, bf16=False, disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(paired_rows(pairs)).remove_columns("images"),
        rollout_func=GenerativeRollouts(),
    )  # fmt: skip
    trainer.train()
    rank = trainer.accelerator.process_index
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    torch.save({"seen": SEEN, "weights": weights}, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    # gloo's threads sometimes abort an interpreter that shuts down in order
    os._exit(0)
