"""What `--shape` and the other arguments mean, and how wrong ones are refused."""

import subprocess
import sys

import pytest

from umer1.profiling.request import DEFAULT_DTYPE, LOSS_SIZES, TARGET_SIZES, TARGETS, read


def test_sizes_go_over_the_defaults():
    request = read("loss", shape="N=64, directions=1,dtype=fp32")
    assert request.sizes == {"N": 64, "D": 1536, "directions": 1}
    assert request.dtype == "float32"
    assert request.shape() == "N=64,D=1536,directions=1,dtype=float32"


def test_a_request_is_read_back_from_its_own_arguments():
    request = read("decode", shape="new=5,dtype=bf16", device="cpu", model="here")
    target, *options = request.arguments()
    named = {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2])}
    assert read(target, **named) == request
    assert request.command().startswith("umer1 profile decode --shape prompts=8,")


def test_every_target_has_sizes_and_a_dtype():
    assert set(TARGET_SIZES) | {"loss"} == set(TARGETS) == set(DEFAULT_DTYPE)
    for loss in LOSS_SIZES:
        assert read("loss", loss=loss).sizes
    assert read("loss", loss="group_reward").dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "training"}, "target training: it must be one of loss, prefill"),
        ({"loss": "infonce"}, "--loss infonce: it must be one of info_nce"),
        ({"device": "tpu"}, "--device tpu: it must be one of cpu, cuda"),
        ({"shape": "N"}, "--shape N: wants name=value"),
        ({"shape": "T=8"}, "--shape T=8: info_nce has no size 'T'; it has N, D, directions, dtype"),
        ({"shape": "N=many"}, "--shape N=many: 'many' is not a whole number"),
        ({"shape": "N=1"}, "--shape N=1: wants at least 2"),
        ({"shape": "directions=3"}, "--shape directions=3: wants at least 1 and at most 2"),
        ({"shape": "dtype=int8"}, "--shape dtype int8: it must be one of float32, bfloat16"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        read(**{"target": "loss", **arguments})


def test_reading_a_request_loads_no_torch():
    code = "import sys, umer1.profiling.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
