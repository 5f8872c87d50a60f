"""Turn a training state into a checkpoint that plain `whisper.load_model(path)` reads.

The full token table is rebuilt from the reduced one (every token that is never spoken gets the
same row), everything is stored in half precision, and the zip entries are deflated, which
torch.save does not do: the repeated rows then cost next to nothing.

    python -m training.export --output speech/engines/demo.pt
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from training.network import DIMENSIONS, TrainedWhisper
from training.vocabulary import VOCABULARY_SIZE

TABLE = "decoder.token_embedding.weight"


def full_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whisper's state dict in half precision, from the trained one."""
    model = TrainedWhisper()
    model.load_state_dict(state)
    rows = torch.from_numpy(model.vocabulary.row_of_token)
    full = {name: value.clone() for name, value in model.whisper.state_dict().items()}
    full[TABLE] = full[TABLE][rows]
    if full[TABLE].shape[0] != VOCABULARY_SIZE:
        raise ValueError("the vocabulary has another size than openai-whisper's")
    return {name: value.half().contiguous() for name, value in full.items()}


def deflated(stored: bytes) -> bytes:
    """The same zip archive with its entries compressed and no dates in it."""
    output = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(stored)) as source,
        zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for name in source.namelist():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name))
    return output.getvalue()


def export(state: dict[str, Tensor], output: Path) -> str:
    """Write the checkpoint; returns its SHA-256."""
    buffer = io.BytesIO()
    torch.save({"dims": dict(DIMENSIONS.__dict__), "model_state_dict": full_state(state)}, buffer)
    data = deflated(buffer.getvalue())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Export the averaged parameters of the latest training state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--output", type=Path, default=Path("speech/engines/demo.pt"))
    parser.add_argument("--which", choices=("average", "model"), default="average")
    arguments = parser.parse_args()
    stored = torch.load(arguments.cache / "training.pt", weights_only=True)
    digest = export(stored[arguments.which], arguments.output)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: step {stored['step']}, {size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
