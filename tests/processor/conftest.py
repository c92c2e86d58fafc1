"""Processors for all tests of this folder."""

import sys
from pathlib import Path

import pytest
from transformers import AutoProcessor

from umer1.processor import Processor

# the shared inputs beside the tests are a plain module
sys.path.insert(0, str(Path(__file__).parent))

from processor_inputs import LIMITS, make_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def processor():
    return Processor.from_parts(make_tokenizer(), LIMITS)


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    processor.save(directory)
    return directory


@pytest.fixture(scope="module")
def reference(saved):
    """transformers' own processor, from the files that `save` writes."""
    return AutoProcessor.from_pretrained(saved)
