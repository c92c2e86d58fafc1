"""Any mixture of arrivals, cancellations, lengths and memory: every request gets exactly what it gets alone."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umer1.engine import NativeEngine, Sampling, SpecialTokens
from umer1.engine.memory import page_bytes

ADD, CANCEL, STEP = "add", "cancel", "step"
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just(ADD), st.integers(0, 7), st.integers(1, 5), st.integers(0, 3), st.booleans()
        ),
        st.tuples(st.just(CANCEL), st.integers(0, 30)),
        st.tuples(st.just(STEP), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=25,
)


def test_whatever_happens(model, make_prompts, naive, common_tokens):
    prompts, known = make_prompts(8, seed=9), {}
    gen_id, eos_id = common_tokens(model, prompts, 5)
    page = page_bytes(model.config, model.dtype)

    def alone(place, limit, stop):
        key = place, limit, stop
        if key not in known:
            known[key] = naive(model, prompts[place], gen_id, eos_id, limit, stop)
        return known[key]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        EVENTS, st.integers(1, 5), st.integers(2, 9), st.sampled_from([4, 9, 500]), st.booleans()
    )
    def run(events, slots, pages, prefill_tokens, late):
        engine = NativeEngine(
            model,
            SpecialTokens(gen_id, eos_id),
            slots=slots,
            prefill_tokens=prefill_tokens,
            kv_memory=(pages + 1) * page,
        )
        scheduler = engine.stepper.scheduler
        engine.stepper.late = late  # as on CUDA
        assert scheduler.pages.total == pages
        requests, cancelled = [], {}
        for event, *values in events:
            if event == ADD:
                place, limit, samples, first = values
                stop = "first" if first else "eos"
                request = engine.add(prompts[place], Sampling(limit, stop=stop), samples=samples)
                requests.append((request, place, limit, stop))
            elif event == CANCEL and requests:
                request = requests[values[0] % len(requests)][0]
                if not request.over:
                    cancelled[request] = len(request.results)
                engine.cancel(request)
                scheduler.check()
            elif event == STEP:
                for _ in range(values[0]):
                    engine.step()
                    scheduler.check()
        for _ in range(2000):
            if engine.idle:
                break
            engine.step()
            scheduler.check()
        assert engine.idle, "somebody starved"
        for request, place, limit, stop in requests:
            if request in cancelled:
                assert request.state == "cancelled" and len(request.results) == cancelled[request]
            else:
                assert sorted(each.sample for each in request.results) == (
                    list(range(request.samples)) or [-1]
                )
            for each in request.results:
                if each.rollout is None:
                    continue
                tokens, vector, hit, finish = alone(place, limit, stop)
                rollout = each.rollout
                assert (rollout.tokens, rollout.hit, rollout.finish) == (tokens, hit, finish)
                assert torch.allclose(rollout.vector, vector, atol=1e-5, rtol=0)
        scheduler.prefixes.drop_unused()
        assert scheduler.pages.free == pages
        engine.load([], version=1)  # nothing is running, whatever is still on its way

    run()
