"""A checkpoint that would run code when it is unpickled runs none."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import errors
from speech.engines import ModelKey, convert_checkpoint
from speech.engines.encoder import convert as convert_encoder
from speech.engines.openai_whisper import load

pytestmark = pytest.mark.model


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def as_torch_saves(path: Path, bomb: Bomb) -> None:
    torch.save({"dims": bomb, "model_state_dict": {}}, path)


def as_it_saved_before(path: Path, bomb: Bomb) -> None:
    torch.save({"dims": bomb}, path, _use_new_zipfile_serialization=False)


def as_a_bare_pickle(path: Path, bomb: Bomb) -> None:
    path.write_bytes(pickle.dumps(bomb))


def as_an_archive(path: Path, bomb: Bomb) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
        archive.writestr("archive/version", "3\n")


def by_openai_whisper(checkpoint: Path) -> None:
    load(ModelKey("openai-whisper", "demo", "cpu", "float32"), checkpoint)


def by_conversion(checkpoint: Path) -> None:
    convert_checkpoint(checkpoint, checkpoint.with_name("converted"))


def by_conversion_of_the_encoder(checkpoint: Path) -> None:
    convert_encoder(checkpoint, checkpoint.with_name("encoder"))


@pytest.mark.security("media", "a checkpoint that holds code")
@pytest.mark.parametrize("read", [by_openai_whisper, by_conversion, by_conversion_of_the_encoder])
@pytest.mark.parametrize(
    "write", [as_torch_saves, as_it_saved_before, as_a_bare_pickle, as_an_archive]
)
def test_no_code_of_a_checkpoint_runs(
    tmp_path: Path, write: Callable[[Path, Bomb], None], read: Callable[[Path], None]
) -> None:
    checkpoint, gone_off = tmp_path / "demo.pt", tmp_path / "gone-off"
    write(checkpoint, Bomb(gone_off))

    with pytest.raises(errors.ModelLoadFailed):
        read(checkpoint)
    assert not gone_off.exists()
