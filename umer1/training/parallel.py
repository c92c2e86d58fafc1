"""What runs on several processes, and how: DDP, DeepSpeed ZeRO-1/2/3, FSDP2, or one process alone.

    parallel = Parallel(config)
    model, optimizer = parallel.prepare(Trainee(qwen), make_optimizer)
    with parallel.part(last=True):                  # once per backward pass; last: the step's final one
        outputs = model(work)                       # work(qwen) reads weights; `use_head(qwen)` gives the head
        parallel.backward(loss)
    norm = parallel.update(clip)                    # None: NaN or infinite gradients, nothing was changed
    with parallel.whole_weights() as qwen: ...      # every weight complete, for rollouts and the final save

In one process, and under DDP and ZeRO-1/2, the weights are whole anyway. Under ZeRO-3 a weight outside of the
wrapped forward is empty, under FSDP2 it is a DTensor.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from umer1.model.attention import compute_dtype
from umer1.model.learned_rows import learned_rows
from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.deepspeed_config import filled, read_deepspeed, zero_stage
from umer1.training.settings import RunConfig
from umer1.training.sharding import shard, skeleton, whole
from umer1.training.wrapped import Trainee

SHARDED = ("zero3", "fsdp2")  # kinds whose weights are whole in the wrapped forward only


def use_head(model: Qwen2VL) -> Tensor:
    """The output projection [V, H], whole and with its gradient; only inside the wrapped forward.

    Under autocast it comes in autocast's dtype, as the head's own linear layer would see it.

    Raises:
        RuntimeError: it is a shard, because this is not inside the wrapped forward.
    """
    weight = model.head_owner.weight
    advice = "read it inside the wrapped forward (Trainee), or under Parallel.whole_weights"
    if isinstance(weight, DTensor):
        raise RuntimeError(f"head weight: is a DTensor, sharded by FSDP2; {advice}")
    if weight.numel() == 0:
        raise RuntimeError(f"head weight: is empty, partitioned by ZeRO-3; {advice}")
    return model.head_weight.to(compute_dtype(weight))


class Parallel:
    """The processes of one run and how the model is spread over them.

    Attributes:
        kind: "one", "ddp", "zero1", "zero2", "zero3" or "fsdp2".
        group: the process group for the kernels' `group=`; None in one process.
    """

    def __init__(self, config: RunConfig, **accelerator_options):
        self.config = config
        self._deepspeed, fsdp = _asked_for(config)
        if self._deepspeed and fsdp:
            raise ValueError("fsdp: cannot be combined with `deepspeed`; choose one")
        # else torchrun on CPUs starts as many lone runs
        cpu = not torch.cuda.is_available()
        fsdp = fsdp and PartialState(cpu=cpu).num_processes > 1  # one process has nothing to shard
        own_precision = bool(self._deepspeed or fsdp)  # these cast the weights themselves
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no" if own_precision else config.mixed_precision,
            step_scheduler_with_optimizer=False,
            **accelerator_options,
        )
        self.world_size, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        config.check_processes(self.world_size)
        self.kind = "one" if self.world_size == 1 else "ddp"
        if self._deepspeed:
            self.kind = f"zero{zero_stage(self._deepspeed)}"
            if self.world_size == 1 and not dist.is_initialized():
                dist.init_process_group(
                    "nccl" if self.device.type == "cuda" else "gloo",
                    store=dist.HashStore(), rank=0, world_size=1,
                )  # fmt: skip
        elif fsdp:
            self.kind = "fsdp2"
        self.group = dist.group.WORLD if self.world_size > 1 else None
        self._wrapped: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def engine(self):
        """DeepSpeed's engine, under ZeRO."""
        return self._wrapped

    @property
    def bare_optimizer(self) -> torch.optim.Optimizer:
        """Without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    # -- before training --------------------------------------------------------------------------------------------

    def prepare(
        self, trainee: Trainee, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module to call and the optimizer to give learning rates to.

        make_optimizer: from a module whose parameters are already those that will be trained.
        """
        self.trainee = trainee.train()
        qwen = trainee.model
        # a rank without pictures would leave the tower's gathers and reductions to the others, which wait for ever
        qwen.always_see |= self.world_size > 1
        self._skeleton = skeleton(qwen) if self.kind in SHARDED else None
        if self.kind.startswith("zero"):
            self._wrapped, self.optimizer = self._prepare_deepspeed(trainee, make_optimizer)
        elif self.kind == "fsdp2":
            shard(trainee, self.device, self.world_size, self.config.mixed_precision == "bf16")
            self._wrapped, self.optimizer = trainee, make_optimizer(trainee)
        else:
            self._wrapped, self.optimizer = self.accelerator.prepare(
                trainee, make_optimizer(trainee)
            )
        return self._wrapped, self.optimizer

    def _prepare_deepspeed(self, trainee: Trainee, make_optimizer):
        import deepspeed

        settings = filled(
            self._deepspeed,
            self.config,
            processes=self.world_size,
            hidden_size=trainee.model.config.hidden_size,
        )
        engine, optimizer, _, _ = deepspeed.initialize(
            model=trainee,
            optimizer=make_optimizer(trainee),
            config=settings,
            dist_init_required=False,
        )
        if self.kind == "zero3":  # what is read beside its own module, before a pass is recorded
            qwen, register = trainee.model, deepspeed.zero.register_external_parameter
            register(trainee, qwen.head_owner.weight)  # by the losses
            for each in learned_rows(qwen):
                register(trainee, each.lora_rows)
            register(qwen, qwen.decoder.norm.weight)  # for its dtype and device
            register(qwen.vision, qwen.vision.patch_embed.weight)
        return engine, optimizer

    # -- a step -----------------------------------------------------------------------------------------------------

    @contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """Around one forward and backward pass. Gradients travel with the `last` pass of a step (ZeRO-2/3: each)."""
        if self.kind.startswith("zero"):
            self._wrapped.set_gradient_accumulation_boundary(last)
        elif self.kind == "fsdp2":
            self._wrapped.set_requires_gradient_sync(last)
        silent = self.kind == "ddp" and not last
        with self._wrapped.no_sync() if silent else nullcontext():
            yield

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`, already divided by the accumulation; the mean over processes is taken.

        A loss that is NaN or infinite makes the gradients NaN, on every process, so that `update` sees it.
        """
        loss = loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        if self.kind.startswith("zero"):
            self._wrapped.backward(loss, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def update(self, clip: float) -> float | None:
        """Clips to the norm `clip` (0: not at all), steps the optimizer, forgets the gradients.

        Returns the norm before clipping, the same on every process; None if it was NaN or infinite: then no weight
        and no moment has changed.
        """
        if self.kind.startswith("zero"):
            return self._update_deepspeed()
        learned = [each for each in self.trainee.parameters() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in learned])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        finite = bool(norm.isfinite())
        if finite:
            if clip:
                torch.nn.utils.clip_grads_with_norm_(learned, clip, norm)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm) if finite else None

    def _update_deepspeed(self) -> float | None:
        self._wrapped.step()
        norm = float(self._wrapped.get_global_grad_norm())
        finite = norm == norm and norm not in (float("inf"), -1.0)
        if not finite and not getattr(self._wrapped.optimizer, "overflow", False):
            raise RuntimeError(
                "DeepSpeed took a step with a gradient that is NaN or infinite: the weights are lost; "
                "start again to resume from the last checkpoint (bf16.check_grad_overflow prevents it)"
            )
        return norm if finite else None

    @torch.no_grad()
    def limit(self, parameter: nn.Parameter, largest: float) -> None:
        """Keeps a learned parameter at or below `largest`, in the copy that the optimizer steps on."""
        if self.kind.startswith("zero"):
            from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

            value = safe_get_full_fp32_param(parameter)
            safe_set_full_fp32_param(parameter, value.clamp(max=largest))
        else:
            parameter.clamp_(max=largest)

    def largest(self, number: int) -> int:
        """The largest `number` over the processes: how many passes each must make, since all take part in each."""
        if self.group is None:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    # -- whole weights ----------------------------------------------------------------------------------------------

    @contextmanager
    def whole_weights(self, *, main_only: bool = False) -> Iterator[Qwen2VL | None]:
        """The model with every weight complete: itself, or a copy for the time of the block if it is sharded.

        All processes must enter. The copy is on this process's device (`main_only`: on the CPU of the main process,
        None on the others); what is done to its weights is lost.
        """
        if self.kind not in SHARDED:
            yield None if main_only and not self.is_main else self.trainee.model
            return
        wanted = not main_only or self.is_main
        model = copy.deepcopy(self._skeleton) if wanted else None
        device = torch.device("cpu") if main_only else self.device
        for name, parameter in self.trainee.model.named_parameters():
            full = whole(parameter)
            if wanted:
                owner, _, leaf = name.rpartition(".")
                kept = nn.Parameter(full.to(device, copy=True), requires_grad=False)
                setattr(model.get_submodule(owner), leaf, kept)
        yield model.eval() if wanted else None


def _asked_for(config: RunConfig) -> tuple[dict | None, bool]:
    """(DeepSpeed settings, FSDP2?) of the config or, where it says nothing, of `accelerate launch`.

    Accelerate's own switches are taken out of the environment: it starts the processes, the wrapping is ours.
    """
    deepspeed = read_deepspeed(config.deepspeed) if config.deepspeed else None
    fsdp = config.fsdp
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true" and not deepspeed:
        path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        if path == "none":
            raise ValueError(
                "deepspeed: `accelerate launch --use_deepspeed` wants --deepspeed_config_file, or "
                "set `deepspeed` in the training config"
            )
        deepspeed = read_deepspeed(path)
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise ValueError("fsdp: `accelerate launch` asks for FSDP 1; give --fsdp_version 2")
        fsdp = True
    return deepspeed, fsdp
