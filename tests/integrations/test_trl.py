"""Real runs of TRL's GRPOTrainer on the bundled model, with the rollouts and rewards of this project."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("datasets")

import datasets
from trl import GRPOConfig, GRPOTrainer

from umer1 import Embedder
from umer1.embedder import BUNDLED
from umer1.engine import Generated, Rollout
from umer1.integrations.trl import GenerativeRollouts
from umer1.integrations.trl_pairs import format_reward, paired_rows, rank_gap_reward
from umer1.model.checkpoint import load_model
from umer1.prompts import Item, Medium
from umer1.training.rewards import score
from umer1.training.settings import RLConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
SETTINGS = {
    "max_steps": 2, "per_device_train_batch_size": 8, "steps_per_generation": 2,
    "gradient_accumulation_steps": 2, "num_generations": 4, "max_completion_length": 24,
    "learning_rate": 1e-3, "beta": 0.0, "temperature": 0.9, "shuffle_dataset": False,
    "report_to": "none", "save_strategy": "no", "logging_steps": 1, "use_cpu": True, "bf16": False,
    "disable_tqdm": True,
}  # fmt: skip


class Watched(GenerativeRollouts):
    """Keeps what it returns, and the policy's own states at `<gen_emb>`."""

    def __init__(self):
        super().__init__()
        self.seen = []

    @torch.no_grad()
    def __call__(self, prompts, trainer):
        found = super().__call__(prompts, trainer)
        policy = trainer.accelerator.unwrap_model(trainer.model)
        policy = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        processor, states = trainer.processing_class, []
        for prompt, ids, tokens in zip(prompts, found["prompt_ids"], found["completion_ids"]):
            pictures = [part["image"] for part in prompt[0]["content"] if part["type"] == "image"]
            inputs = processor(
                text=[processor.apply_chat_template(prompt, add_generation_prompt=True)],
                images=pictures or None,
                return_tensors="pt",
            )
            assert inputs["input_ids"][0].tolist() == ids
            length, tail = len(ids), torch.tensor([tokens])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], 1)
            for name in ("attention_mask", "mm_token_type_ids"):
                filler = torch.full_like(tail, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], filler], 1)
            hidden = policy.base_model(**inputs).last_hidden_state[0]
            gen = processor.tokenizer.convert_tokens_to_ids("<gen_emb>")
            at = length + max((n for n, token in enumerate(tokens) if token == gen), default=0)
            states.append(F.normalize(hidden[at], dim=0))
        self.seen.append((found, states))
        return found


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory):
    """A function: (trainer, watched rollouts, differences of log-probabilities, rewards) of a run."""

    def train(**more):
        rows = datasets.Dataset.from_list(paired_rows(pairs, seed=1))
        rows = rows.cast_column("images", datasets.List(datasets.Image()))
        folder = str(tmp_path_factory.mktemp("grpo"))
        rollouts, differences, rewards = Watched(), [], []

        class Trainer(GRPOTrainer):
            def _get_per_token_logps_and_entropies(self, *given, **settings):
                result = super()._get_per_token_logps_and_entropies(*given, **settings)
                self.policy_logps = result[0].detach()
                return result

            def _compute_loss(self, model, inputs):
                loss = super()._compute_loss(model, inputs)
                real = inputs["completion_mask"].bool()
                apart = (self.policy_logps - inputs["sampling_per_token_logps"])[real]
                differences.append(float(apart.abs().max()))
                return loss

            def _calculate_rewards(self, inputs, *given):
                rewards.append((inputs, super()._calculate_rewards(inputs, *given)))
                return rewards[-1][1]

        trainer = Trainer(
            str(BUNDLED["tiny"]),
            reward_funcs=[format_reward, rank_gap_reward],
            args=GRPOConfig(output_dir=folder, **SETTINGS),
            train_dataset=rows,
            rollout_func=rollouts,
            **more,
        )
        before = {name: each.detach().clone() for name, each in trainer.model.named_parameters()}
        trainer.train()
        moved = max(
            float((each.detach() - before[name]).abs().max())
            for name, each in trainer.model.named_parameters()
        )
        assert moved > 1e-4
        return trainer, rollouts, differences, rewards

    return train


@pytest.fixture(scope="module")
def plain(run):
    return run()


def test_log_probabilities_are_the_policys_before_and_after_a_step(plain):
    _, rollouts, differences, _ = plain
    assert len(differences) == 4 and max(differences) < 5e-5
    assert rollouts.version == 2


def test_vectors_are_the_policys_states(plain):
    _, rollouts, *_ = plain
    hits = 0
    for found, states in rollouts.seen:
        for vector, hit, state in zip(found["gen_emb"], found["gen_hit"], states, strict=True):
            assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
            if hit:
                hits += 1
                assert float((vector - state).abs().max()) < 5e-5
    assert hits > 16
    first, second = (found["gen_text"] for found, _ in rollouts.seen)
    assert len(set(first)) > 4  # samples of one prompt differ
    assert first != second


def test_rewards_are_those_of_the_own_trainer(plain):
    trainer, rollouts, _, rewards = plain
    for inputs, given in rewards:
        sides = {"query": [], "target": []}
        for place in range(0, 16, 4):
            rows = inputs[place : place + 4]
            assert len({(row["pair"], row["side"]) for row in rows}) == 1
            result = [Rollout([0], [0.0], row["gen_emb"], row["gen_hit"], "eos") for row in rows]
            sides[rows[0]["side"]].append(Generated(rollouts=result))
        texts = [[[row["gen_text"] for row in inputs[place : place + 4]]
                  for place in range(0, 16, 4) if inputs[place]["side"] == side] for side in sides]  # fmt: skip
        expected = score(sides["query"], sides["target"], texts, RLConfig(data="x", generations=4))
        # rows come pair by pair, the query first
        for column, values in ((0, expected.format), (1, expected.embedding)):
            found = given[:, column].view(2, 2, 4).transpose(0, 1)
            torch.testing.assert_close(found, values.to(found.dtype), atol=1e-6, rtol=0)
    names = trainer.state.log_history[0]
    assert {"rewards/rank_gap_reward/mean", "rank", "gap"} <= names.keys()


def test_rollouts_of_lora_have_the_adapters_in_them(run):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    trainer, rollouts, differences, _ = run(peft_config=config)
    assert len(differences) == 4 and max(differences) < 5e-5
    base = load_model(BUNDLED["tiny"], dtype=torch.float32).decoder.layers[0].down.weight
    kept = trainer.model.get_parameter(
        "base_model.model.model.language_model.layers.0.mlp.down_proj.base_layer.weight"
    )
    torch.testing.assert_close(kept.detach(), base, atol=1e-6, rtol=0)


def test_prompts_are_those_of_the_own_trainer(plain, pairs, pictures):
    """Of pictures within the limits of both processors."""
    _, rollouts, *_ = plain
    processor = Embedder.load("tiny").processor
    seen = {tuple(ids) for found, _ in rollouts.seen for ids in found["prompt_ids"]}
    own = set()
    for pair in pairs:
        for side in (pair.query, pair.target):
            media = tuple(Medium("image", each) for each in side.images)
            item = Item(side.text, media)
            own.add(tuple(processor.encode(item, mode="gen", dialect="rl").input_ids.tolist()))
    assert seen == own


@pytest.mark.timeout(600)
def test_two_processes_are_each_others_candidates(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TRL_EXPERIMENTAL_SILENCE": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name("grpo_process.py"), tmp_path],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=580)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name])
    texts = set()
    for here, there in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True):
        both = {name: [*here[name], *there[name]] for name in here}
        assert len(set(both["pair"])) == 4 and set(here["pair"]).isdisjoint(there["pair"])
        rewards = both.pop("reward")
        assert rank_gap_reward(**both) == pytest.approx(rewards, abs=1e-6)
        texts.add(tuple(both["gen_text"]))
    assert len(texts) == len(ranks[0]["seen"]) == 2
