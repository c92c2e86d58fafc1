"""What identifies the weights of a model."""

import pytest

from umer1.cli import models


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    return folder


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_hub_id_is_its_own_name():
    assert models.model_identity("zhibinlan/UME-R1-2B") == "zhibinlan/UME-R1-2B"


def test_the_same_weights_have_the_same_name_anywhere(checkpoint, tmp_path):
    before = models.model_identity(str(checkpoint))
    assert before.startswith("mine@")
    (tmp_path / "other").mkdir()
    moved = checkpoint.rename(tmp_path / "other" / "mine")
    assert models.model_identity(str(moved)) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_another_byte_is_another_name(checkpoint, name):
    before = models.model_identity(str(checkpoint))
    change_byte(checkpoint / name, 1)
    assert models.model_identity(str(checkpoint)) != before


def test_large_files_are_sampled_from_end_to_end(checkpoint, monkeypatch):
    monkeypatch.setattr(models, "WHOLE_FILE", 1000)
    monkeypatch.setattr(models, "SAMPLE_BYTES", 64)
    weights = checkpoint / "model.safetensors"
    names = {models.model_identity(str(checkpoint))}
    for place in (0, weights.stat().st_size // 63 - 1, -1):
        change_byte(weights, place)
        names.add(models.model_identity(str(checkpoint)))
    assert len(names) == 4
