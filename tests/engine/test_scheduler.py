"""The scheduler without a model: rules one by one, then any mixture of arrivals, ends and cancellations."""

from __future__ import annotations

import pytest

from umer1.engine.pages import PAGE_LENGTH, PagePool
from umer1.engine.scheduler import Request, Scheduler


def make(pages=100, slots=4, prefill_tokens=256):
    return Scheduler(PagePool(pages), slots, prefill_tokens)


def request(key, tokens=10, samples=1, new_tokens=8):
    return Request(key, tokens, samples, new_tokens, content=f"content of {key}")


def prefill_all(scheduler):
    while pieces := scheduler.pieces():
        scheduler.filled(pieces)
    return scheduler.take_ready()


def test_a_row_takes_all_it_may_ever_need_and_gives_it_back():
    scheduler = make(pages=10)
    scheduler.add(request("a", tokens=PAGE_LENGTH + 1, new_tokens=PAGE_LENGTH * 3))
    scheduler.admit()
    assert scheduler.pages.free == 10 - 2 - 3
    rows, _ = prefill_all(scheduler)
    scheduler.retire(rows[0])
    assert scheduler.idle and rows[0].request.state == "finished"
    assert scheduler.pages.free == 8  # the prefix stays for the next one who has it
    scheduler.check()


def test_samples_and_equal_prompts_share_one_prefix():
    scheduler = make(slots=8)
    first, second = request("same", samples=3), request("same", samples=2)
    scheduler.add(first), scheduler.add(second), scheduler.add(request("other"))
    scheduler.admit()
    assert first.prefix is second.prefix and len(scheduler.prefixes) == 2
    assert [piece.prefix.key for piece in scheduler.pieces()] == ["same", "other"]
    rows, _ = prefill_all(scheduler)
    assert len(rows) == 6
    for row in rows:
        scheduler.retire(row)
    again = request("same")
    scheduler.add(again)
    scheduler.admit()
    assert not scheduler.pieces() and scheduler.take_ready()[0][0].request is again


def test_first_come_first_served_even_if_a_later_one_would_fit():
    scheduler = make(pages=8, slots=4)
    running, large, small = (
        request(key, new_tokens=new * PAGE_LENGTH) for key, new in zip("abc", (4, 5, 1))
    )
    for each in (running, large, small):
        scheduler.add(each)
    scheduler.admit()
    assert [each.state for each in (running, large, small)] == ["admitted", "waiting", "waiting"]
    prefill_all(scheduler)
    scheduler.retire(running.rows[0])
    scheduler.admit()
    assert large.state == "admitted" and small.state == "admitted"
    assert len(scheduler.prefixes) == 2  # the idle prefix made room
    scheduler.check()


def test_samples_join_as_slots_become_free():
    scheduler = make(slots=3)
    scheduler.add(request("a", samples=7))
    done = 0
    while not scheduler.idle:
        scheduler.admit()
        prefill_all(scheduler)
        row = next(iter(scheduler.running.values()))
        scheduler.retire(row)
        done += 1
        scheduler.check()
    assert done == 7


def test_rows_join_together_when_many_wait():
    scheduler = make(slots=8)
    for number in range(12):
        scheduler.add(request(number))
    scheduler.admit()
    prefill_all(scheduler)
    assert len(scheduler.running) == 8
    scheduler.retire(scheduler.running[0])
    scheduler.admit()
    assert len(scheduler.running) == 7  # one slot of eight is not worth a prefill while four wait
    scheduler.retire(scheduler.running[1])
    scheduler.admit()
    assert len(scheduler.running) == 8


def test_with_patience_prompts_wait_for_each_other():
    """Steps are counted by `admit`, once each."""
    scheduler = Scheduler(PagePool(1000), 64, 256, patience=3)
    for place in range(32):
        scheduler.add(request(place))
    scheduler.admit()  # nothing runs: nothing to wait for
    prefill_all(scheduler)
    assert len(scheduler.running) == 32
    scheduler.add(request("one", samples=0)), scheduler.add(request("two"))
    for _ in range(3):
        scheduler.admit()
        assert not scheduler.pieces()
    scheduler.admit()
    assert [piece.prefix.key for piece in scheduler.pieces()] == ["one", "two"]
    rows, _ = prefill_all(scheduler)
    # an eighth of what runs is enough at once; a step without anybody is nobody's wait
    for _ in range(5):
        scheduler.admit()
    for place in range(4):
        scheduler.add(request(f"more {place}"))
    scheduler.admit()
    assert not scheduler.pieces()
    scheduler.add(request("fifth"))
    scheduler.admit()
    assert len(scheduler.pieces()) == 5
    prefill_all(scheduler)
    for row in [*scheduler.running.values()]:
        scheduler.retire(row)
    scheduler.add(request("alone"))
    scheduler.admit()
    assert [piece.prefix.key for piece in scheduler.pieces()] == ["alone"]
    scheduler.check()


def test_prompts_are_packed_up_to_the_limit_and_long_ones_cut_at_multiples_of_it():
    scheduler = make(slots=8, prefill_tokens=100)
    for key, tokens in (("a", 60), ("b", 40), ("c", 30), ("long", 250), ("d", 10)):
        scheduler.add(request(key, tokens))
    scheduler.admit()
    seen = []
    while pieces := scheduler.pieces():
        seen.append([(piece.prefix.key, piece.start, piece.stop) for piece in pieces])
        scheduler.filled(pieces)
    assert seen == [
        [("a", 0, 60), ("b", 0, 40)],
        [("c", 0, 30)],
        [("long", 0, 100)],
        [("long", 100, 200)],
        [("long", 200, 250)],
        [("d", 0, 10)],
    ]


def test_requests_without_samples_take_neither_slots_nor_pages():
    scheduler = make(pages=4, slots=1)
    scheduler.add(request("busy"))
    scheduler.admit()
    prefill_all(scheduler)
    several = [request(number, tokens=200, samples=0, new_tokens=0) for number in range(5)]
    for each in several:
        scheduler.add(each)
    scheduler.admit()
    assert scheduler.pages.free == 2
    assert prefill_all(scheduler) == ([], several)
    assert all(each.state == "finished" for each in several)


def test_long_ones_without_samples_need_pages_between_their_pieces():
    scheduler = make(pages=4, prefill_tokens=64)
    long = request("long", tokens=200, samples=0, new_tokens=0)
    scheduler.add(long)
    scheduler.admit()
    assert scheduler.pages.free == 0
    assert prefill_all(scheduler) == ([], [long])


def test_cancelling_frees_everything_at_any_moment():
    def waiting(scheduler, each):
        scheduler.add(request("before", new_tokens=90 * PAGE_LENGTH))
        scheduler.admit()
        scheduler.add(each)

    def admitted(scheduler, each):
        scheduler.add(each)
        scheduler.admit()

    def half_read(scheduler, each):
        admitted(scheduler, each)
        scheduler.filled(scheduler.pieces())

    def running(scheduler, each):
        admitted(scheduler, each)
        prefill_all(scheduler)

    for arrive in (waiting, admitted, half_read, running):
        scheduler = make(slots=2, prefill_tokens=64)
        each = request("a", tokens=200, samples=5, new_tokens=10 * PAGE_LENGTH)
        arrive(scheduler, each)
        scheduler.cancel(each)
        scheduler.cancel(each)
        assert each.state == "cancelled" and not each.rows
        scheduler.check()
        for row in list(scheduler.running.values()):
            scheduler.cancel(row.request)
        assert scheduler.idle and scheduler.waiting_rows == 0
        kept = sum(len(prefix.pages) for prefix in scheduler.prefixes)
        assert scheduler.pages.free == 100 - kept
        assert all(prefix.ready for prefix in scheduler.prefixes), arrive.__name__


def test_cancelling_one_of_two_keeps_their_prefix():
    scheduler = make(prefill_tokens=64)
    one, other = request("same", tokens=200), request("same", tokens=200)
    scheduler.add(one), scheduler.add(other)
    scheduler.admit()
    scheduler.filled(scheduler.pieces())
    scheduler.cancel(one)
    rows, _ = prefill_all(scheduler)
    assert [row.request for row in rows] == [other]
    scheduler.check()


def test_unused_prefixes_leave_in_the_order_of_use():
    scheduler = make(pages=6, slots=1)
    for key in ("a", "b", "a", "c"):
        scheduler.add(request(key, new_tokens=3 * PAGE_LENGTH))
        scheduler.admit()
        rows, _ = prefill_all(scheduler)
        scheduler.retire(rows[0])
    assert [prefix.key for prefix in scheduler.prefixes] == ["a", "b", "c"]
    scheduler.add(request("d", new_tokens=4 * PAGE_LENGTH))
    scheduler.admit()
    assert [prefix.key for prefix in scheduler.prefixes] == ["c", "d"]
    scheduler.prefixes.drop_unused()
    assert [prefix.key for prefix in scheduler.prefixes] == ["d"]


def test_what_never_fits_is_refused_at_once():
    scheduler = make(pages=4)
    with pytest.raises(
        ValueError, match="prompt 3: 200 prompt tokens and 100 new ones need 6 pages"
    ):
        scheduler.check_fits(200, 100, "prompt 3")
    with pytest.raises(ValueError, match="there are 4: shorten it, lower max_new_tokens"):
        scheduler.add(request("a", tokens=200, new_tokens=100))
    assert scheduler.idle


@pytest.mark.parametrize("new_tokens", [0, 1, PAGE_LENGTH, 3 * PAGE_LENGTH, 4 * PAGE_LENGTH])
@pytest.mark.parametrize("prefill_tokens", [PAGE_LENGTH // 2, 9 * PAGE_LENGTH])
def test_the_longest_prompt_fits_and_no_longer_one(new_tokens, prefill_tokens):
    scheduler = Scheduler(PagePool(4), 2, prefill_tokens)
    longest = scheduler.longest_prompt(new_tokens)
    if longest >= 1:
        scheduler.check_fits(longest, new_tokens)
    with pytest.raises(ValueError, match="of key-value memory, there are 4"):
        scheduler.check_fits(max(longest, 0) + 1, new_tokens)
