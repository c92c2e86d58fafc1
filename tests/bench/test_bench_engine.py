"""The engine's benchmarks: everybody writes the same tokens and makes the same vectors; composed times add up."""

import pytest
import torch

from bench import report
from bench.case import OURS
from bench.claims import verdicts
from bench.engine import composed, ours, peers
from bench.engine.shapes import SHAPES, config, random_model
from bench.engine.workload import MEAN_LENGTH, Workload, lognormal_lengths
from bench.suites.engine_decode import EngineDecode
from umer1.engine import Sampling
from umer1.model import Qwen2VL

KINDS = ("image-4", "text-9", "video-8")


@pytest.fixture(scope="module")
def workload():
    return Workload("tiny", KINDS, prompts=3, samples=2, dtype=torch.float32)


@pytest.fixture(scope="module")
def truth(workload):
    return workload.true_vectors(6)


@pytest.mark.parametrize("run", [
    lambda workload: ours.vectors(ours.native(workload, rows=4), workload),
    lambda workload: ours.vectors(ours.over_transformers(workload, rows=4), workload),
    lambda workload: peers.released(workload, batch=4),
], ids=["native", "hf", "released"])  # fmt: skip
def test_every_engine_makes_the_same_vectors(workload, truth, run):
    torch.testing.assert_close(run(workload), truth, atol=1e-5, rtol=0)


def test_the_scripts_are_what_is_written(workload):
    engine = ours.native(workload, rows=3)
    sampling = Sampling(max(map(len, workload.scripts)), stop="eos")
    with ours.scripted(workload, sampling):
        for each in engine.submit(workload.requests, sampling, samples=2):
            assert each.rollout.tokens == workload.scripts[2 * each.prompt + each.sample]
    # generate() goes on to the end of the longest row of each batch
    lengths = [len(script) for script in workload.scripts]
    prompts = [len(request.sequence) for request, _ in workload.rows]
    written = 4 * (max(prompts[:4]) + max(lengths[:4])) + 2 * (max(prompts[4:]) + max(lengths[4:]))
    assert int(peers.generated(workload, batch=4)) == written


def test_disc_vectors_agree(workload):
    mine = ours.disc_vectors(ours.native(workload, rows=4), workload)
    for theirs in (peers.released_disc(workload, 2), peers.backbone_disc(workload, 3)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_shapes_are_what_they_are_called():
    def parameters(size):
        with torch.device("meta"):
            model = Qwen2VL(config(size))
        head, decoder = (
            model.head_weight.numel(),
            sum(p.numel() for p in model.decoder.parameters()),
        )
        return sum(p.numel() for p in model.parameters()) / 1e9, head / decoder

    total, head = parameters("2b")
    assert total == pytest.approx(2.21, abs=0.02)
    small, small_head = parameters("0.1b")
    assert small == pytest.approx(0.1, abs=0.01)
    assert small_head == pytest.approx(head, abs=0.07)  # the head weighs about the same
    assert set(SHAPES) == {"2b", "0.1b", "tiny"}


@torch.no_grad()
def test_random_weights_are_normal_and_differ():
    model = random_model(config("tiny"), torch.float32)
    weights = [p for p in model.parameters() if p.dim() == 2 and p.numel() > 4000]
    assert all(abs(float(w.mean())) < 0.2 * float(w.std()) for w in weights)
    first, second = model.decoder.layers[0].down.weight, model.decoder.layers[1].down.weight
    assert not torch.equal(first, second)
    rows = model.decoder.embed.weight
    assert (rows @ rows.T - torch.diag((rows**2).sum(1))).abs().max() < 0.9 * (rows**2).sum(1).max()


def test_lengths_are_log_normal():
    lengths = torch.tensor(lognormal_lengths(4096)).double()
    assert lengths.mean() == pytest.approx(MEAN_LENGTH, rel=0.01)
    assert lengths.log().std() == pytest.approx(0.5, rel=0.01)


def _rows():
    common = {"device": "cpu", "status": "ok", "errors": {}, "dtype": "bfloat16", "hardware": "a CPU", "torch": "2",
              "triton": "3", "python": "3", "threads": 2, "commit": "abc", "p20_ms": 1.0, "p80_ms": 1.0}  # fmt: skip
    rows = []
    for part, mine, theirs in (("vision", 100.0, 200.0), ("prefill", 300.0, 400.0)):
        for variant, time in ((OURS, mine), ("transformers", theirs)):
            rows.append(common | {"suite": "engine_phases", "case": f"{part}-64-2b-bf16",
                                  "variant": variant, "median_ms": time, "sizes": {}})  # fmt: skip
    for batch in (1, 2, 4, 8, 16, 32):
        for variant, time in ((OURS, 10.0 + batch), ("released", 50.0 + batch), ("generate", 40.0)):
            rows.append(common | {"suite": "engine_decode", "case": f"2b-b{batch}-bf16",
                                  "variant": variant, "median_ms": time, "sizes": {"B": batch}})  # fmt: skip
    return rows


def test_composed_times_add_up():
    rows = composed.composed(_rows())
    cases = {row["case"] for row in rows}
    assert cases == {
        composed.case_name(name, 64) for name in composed.WORKLOADS
    }  # 256 was not measured
    lengths = lognormal_lengths(32)
    time = {(row["case"], row["variant"]): row["median_ms"] for row in rows}
    steps = [sum(length > place for length in lengths) for place in range(1, max(lengths))]
    decode = sum(10.0 + active for active in steps)
    queries, rollouts = (composed.case_name(name, 64) for name in composed.WORKLOADS)
    assert time[queries, OURS] == pytest.approx(32 * 400 + decode)
    assert time[rollouts, OURS] == pytest.approx(4 * 400 + decode)
    longest = [max(lengths[start : start + 8]) - 1 for start in range(0, 32, 8)]
    assert time[rollouts, "released-b8"] == pytest.approx(32 * 600 + sum(longest) * 58)
    assert time[queries, "generate-b32"] == pytest.approx(32 * 600 + (max(lengths) - 1) * 40)


def test_the_report_has_the_engine_and_its_aims(tmp_path):
    rows = _rows()
    rows += composed.composed(rows)
    found = {(v.claim.case, v.claim.what): v for v in verdicts(rows, "cpu")}
    verdict = found[composed.case_name("rollouts-4x8", 64), "times faster than the released recipe"]
    row = next(row for row in rows if row["case"] == verdict.claim.case and row["variant"] == OURS)
    best = min(value for name, value in row["speedup"].items() if name.startswith("released"))
    assert verdict.measured == best and verdict.claim.wanted == 4
    everything = report.Found("cpu", rows, [])
    table = report.engine_table(everything)
    assert "| composed rollouts-4x8-2b-image-64-bf16 | **umer1** |" in table
    assert "engine" not in report.rows_table(everything)


def test_a_prompt_for_every_row_is_the_peer_of_a_shared_one():
    case = EngineDecode(name="g2", dtype=torch.bfloat16, size="tiny", rows=4, samples=2, context=90)
    problem = case.build(torch.device("cpu"))
    state, flat = problem.inputs["state"], problem.inputs["flat"]
    assert state.workload.model is flat.workload.model
    for variant in case.variants(torch.device("cpu")):
        for _ in range(3):  # every call starts at the same place
            variant.function(**problem.inputs)
    shared, apart = state._engine.describe(), flat._engine.describe()
    assert (shared["running"], apart["running"]) == (4, 4)
    assert (shared["prefixes"], apart["prefixes"]) == (2, 4)


def test_new_weights_make_an_engine_forget_what_it_has_read(workload, truth):
    engine = ours.native(workload, rows=4)
    engine.wake()
    sampling = Sampling(max(map(len, workload.scripts)), stop=ours.STOP)
    for version in (1, 2):  # as on a GPU, where it does not sleep between runs
        with ours.scripted(workload, sampling):
            found = {(each.prompt, each.sample): each.rollout.vector
                     for each in engine.submit(workload.requests, sampling, samples=2)}  # fmt: skip
        torch.testing.assert_close(
            torch.stack([found[key] for key in sorted(found)]), truth, atol=1e-5, rtol=0
        )
        assert engine.describe()["features"] > 0
        engine.load([], version=version)
        told = engine.describe()
        assert (told["features"], told["prefixes"]) == (0, 0)
    engine.sleep()


def test_one_query_is_the_sum_of_its_parts():
    rows = [dict(row) for row in _rows()]
    for row in rows:
        row["case"] = row["case"].replace("-64-", "-256-")
    parts = composed.one_query(rows, "cpu")
    assert [part.milliseconds for part in parts] == [100.0, 300.0, (MEAN_LENGTH - 1) * 11.0]
    assert composed.one_query(rows, "cuda") == []
    on_gpu = [row | {"device": "cuda", "percent_of_peak": 31.4, "percent_of_floor": 70.0, "floor": "3 MiB"}
              for row in rows]  # fmt: skip
    assert composed.one_query(on_gpu, "cuda")[0].bound == "31 % of the peak of its arithmetic"


def test_the_cases_of_a_gpu_share_their_weights():
    """Two billion weights are not made for every case; on a CPU each has its own, to pack them."""
    one, other = (Workload("tiny", ("text-9",), count, device="meta") for count in (1, 2))
    assert one.model is other.model and one.model.config == other.config
    one, other = (Workload("tiny", ("text-9",), count) for count in (1, 2))
    assert one.model is not other.model
