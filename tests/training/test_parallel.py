"""What a config makes of the processes there are."""

import pytest
from accelerate.state import AcceleratorState

from umer1.training.parallel import Parallel
from umer1.training.settings import SFTConfig


@pytest.fixture
def accelerate_anew():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("fsdp", [False, True])
def test_one_process_computes_in_the_precision_asked_for(accelerate_anew, fsdp):
    """There is nothing to shard then, so nothing but autocast would make bfloat16 of it."""
    parallel = Parallel(SFTConfig(fsdp=fsdp, mixed_precision="bf16"))
    assert parallel.kind == "one" and parallel.accelerator.mixed_precision == "bf16"
