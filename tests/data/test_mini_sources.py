"""Train, rl and test share no digit, photo, frame or page, by name and by content."""

import hashlib
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from umer1.data.mini import sources as sources_module
from umer1.data.mini.sources import SPLITS, TOPICS, load_sources


@pytest.fixture(scope="module")
def sources():
    return load_sources()


def digest(content) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(split):
    """(id, hash) of everything a split holds, hashed here from the loaded content itself."""
    for digits in split.digits:
        for digit in digits:
            yield digit.id, digest(digit.pixels.tobytes())
    for photo in split.photos:
        yield photo.id, digest(photo.image.tobytes())
    for clip in split.clips:
        for offset, frame in enumerate(clip.frames):
            yield f"clip/{clip.name}/{clip.start + offset}", digest(frame.tobytes())
    for pages in split.pages.values():
        for page in pages:
            yield page.id, digest("\n".join(page.lines).encode())


def test_splits_share_neither_names_nor_content(sources):
    split_of_name, split_of_hash = {}, {}
    for name in SPLITS:
        for identity, content in contents(sources.splits[name]):
            assert split_of_name.setdefault(identity, name) == name
            assert split_of_hash.setdefault(content, name) == name, identity
            assert sources.provenance[identity]["split"] == name
    assert set(split_of_name) == set(sources.provenance)
    hashes = Counter(entry["sha256"] for entry in sources.provenance.values())
    assert max(hashes.values()) == 1


def test_digits_are_scikit_learns_and_stratified(sources):
    from sklearn.datasets import load_digits

    data = load_digits()
    for name, share in zip(SPLITS, (0.56, 0.19, 0.25), strict=True):
        for label, digits in enumerate(sources.splits[name].digits):
            assert len(digits) == pytest.approx(share * np.sum(data.target == label), abs=1.01)
            for digit in digits:
                index = int(digit.id.split("/")[1])
                assert digit.label == label == data.target[index]
                np.testing.assert_array_equal(digit.pixels * 16, data.images[index])


def test_no_split_shows_a_near_copy_of_anothers_photo(sources):
    """Small grey versions of the photos of different splits differ clearly."""
    small = {
        photo.id: (
            name,
            np.asarray(
                photo.image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=float
            ),
        )
        for name in SPLITS
        for photo in sources.splits[name].photos
    }
    for one, (split, pixels) in small.items():
        for other, (other_split, other_pixels) in small.items():
            if split != other_split:
                assert np.abs(pixels - other_pixels).mean() > 8, (one, other)


def test_clip_ranges_have_gaps(sources):
    frames = defaultdict(list)
    for name in SPLITS:
        for clip in sources.splits[name].clips:
            frames[clip.name].append((clip.start, clip.start + len(clip.frames)))
    assert set(frames) == {"bikes", "rabbit", "car"}
    for ranges in frames.values():
        ranges.sort()
        assert all(start - stop >= 6 for (_, stop), (start, _) in pairwise(ranges))


def test_every_topic_has_pages_in_every_split_and_they_share_no_text(sources):
    runs = {}
    for name in SPLITS:
        pages = sources.splits[name].pages
        assert set(pages) == set(TOPICS)
        assert all(pages.values())
        # shorter runs may be turns of phrase that documentation repeats
        runs[name] = {
            page.lines[start : start + 4]
            for topic in pages.values() for page in topic for start in range(len(page.lines) - 3)
        }  # fmt: skip
    for one, other in (("train", "test"), ("train", "rl"), ("rl", "test")):
        assert not runs[one] & runs[other]
    assert sum(map(len, sources.splits["test"].pages.values())) >= 100


def test_all_missing_packages_are_named_at_once(monkeypatch):
    found = sources_module.importlib.util.find_spec
    missing = {"sklearn", "av"}
    monkeypatch.setattr(
        sources_module.importlib.util,
        "find_spec",
        lambda name: None if name in missing else found(name),
    )
    message = r"needs scikit-learn, av: pip install 'umer1\[data\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        load_sources()
