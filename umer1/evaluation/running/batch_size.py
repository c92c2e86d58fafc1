"""How many rows an engine should compute together: as many as its memory holds.

No result depends on it, so it is a matter of speed alone: more rows share each reading of the
weights, until keys and values fill the memory or a step is bound by arithmetic.
"""

# where more rows no longer pay
MOST = {"cuda": 256, "cpu": 64}
# a row's prompt, for the estimate: a picture at the processor's largest size and some text; the
# engine itself counts every prompt, and lets rows wait that do not fit
PROMPT_TOKENS = 2048
# of an engine whose memory is not ours to count
UNKNOWN = 32


def rows_that_fit(embedder, max_new_tokens: int) -> tuple[int, str]:
    """Rows for generations of up to `max_new_tokens`, and in words why so many."""
    # torch is imported with the engine: not by those who only score
    from umer1.engine import NativeEngine, memory
    from umer1.engine.pages import pages_for

    engine = getattr(embedder, "engine", None)
    if not isinstance(engine, NativeEngine):
        return UNKNOWN, "the engine does not say what fits"
    # what an earlier job left there would count as taken
    engine.sleep()
    engine.wake()
    model = engine.model
    most = MOST.get(model.device.type, UNKNOWN)
    everything = 1 << 62
    pages, source = memory.page_count(model, everything, engine.prefill_tokens, most)
    fitting = pages // pages_for(PROMPT_TOKENS + max_new_tokens)
    rows = max(1, min(most, fitting))
    why = f"{fitting} rows of {PROMPT_TOKENS + max_new_tokens} tokens fit, {source}; at most {most}"
    return rows, why
