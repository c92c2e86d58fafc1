"""Ids that callers give."""

import time

from umer1.identities import first_twice


def test_the_first_that_comes_again():
    assert first_twice([]) is None and first_twice(["a", "b"]) is None
    assert first_twice(["a", "b", "b", "a"]) == "b"


def test_many_ids_take_one_pass():
    ids = [str(number) for number in range(300_000)]
    began = time.process_time()
    assert first_twice([*ids, ids[-1]]) == ids[-1]
    assert time.process_time() - began < 2
