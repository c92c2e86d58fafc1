"""Pages: handed out once, given back once."""

import pytest

from umer1.engine.pages import PAGE_LENGTH, SCRATCH, PagePool, pages_for


def test_pages_for_tokens():
    assert [pages_for(tokens) for tokens in (0, 1, PAGE_LENGTH, PAGE_LENGTH + 1)] == [0, 1, 1, 2]


def test_pages_have_one_owner_and_the_scratch_page_none():
    pool = PagePool(5)
    first, second = pool.take(2), pool.take(3)
    assert sorted(first + second) == [1, 2, 3, 4, 5] and SCRATCH not in first + second
    assert pool.free == 0
    pool.check(first + second)
    pool.give_back(first)
    assert pool.free == 2 and set(pool.take(2)) == set(first)


def test_low_pages_first_so_that_unused_memory_stays_untouched():
    pool = PagePool(100)
    for _ in range(50):
        pages = pool.take(3)
        assert max(pages) <= 3
        pool.give_back(pages)


def test_mistakes_are_seen():
    pool = PagePool(3)
    pages = pool.take(2)
    with pytest.raises(RuntimeError, match="2 pages were asked for, 1 are free"):
        pool.take(2)
    for owned in (pages[:1], pages * 2, [*pages, 3]):
        with pytest.raises(AssertionError):
            pool.check(owned)
    pool.give_back(pages)
    with pytest.raises(RuntimeError, match="given back twice"):
        pool.give_back(pages[:1])
    with pytest.raises(ValueError, match="total: got 0"):
        PagePool(0)
