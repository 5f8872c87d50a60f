"""A model in other forms than its checkpoint: put here, cached, made from that, or fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

import errors
from speech.engines.catalogue import ModelSpec
from speech.engines.downloads import Progress
from speech.engines.store import ModelStore, is_converted, logged

#: The encoder alone, in OpenVINO's form.
ENCODER = "encoder"
ENCODER_FILES = ("encoder.xml", "encoder.bin")

#: As faster-whisper has it.
_PATTERNS = [
    "config.json",
    "preprocessor_config.json",
    "model.bin",
    "tokenizer.json",
    "vocabulary.*",
]


def fetch(spec: ModelSpec, store: ModelStore, *, progress: Progress) -> Path:
    """Return the model's folder; see ``speech.engines.fetch``.

    What is here wins over what could be downloaded: a folder that the operator put in the cache,
    the hub's cache, openai-whisper's checkpoint.
    """
    if (here := find(spec, store)) is not None:
        return here
    mirrored = store.base_url is not None and store.hub_endpoint is None
    if spec.hub_repository is None or mirrored or store.has_checkpoint(spec):
        return store.converted(spec, _convert, progress)
    if not store.download_allowed:
        raise _unavailable(spec, store, "downloads are switched off")
    with store.locked(f"faster-whisper-{spec.name}", progress):
        return _download(spec, spec.hub_repository, store, logged(progress, spec.name))


def find(spec: ModelSpec, store: ModelStore) -> Path | None:
    """Look for a folder that is ready to be loaded; neither fetches nor converts."""
    return store.placed(spec) or _cached(spec, store)


def fetch_halves(spec: ModelSpec, store: ModelStore, *, progress: Progress) -> Path:
    """Return the model's folder for CTranslate2, with the one for OpenVINO in its place beside it.

    Both are made from openai-whisper's checkpoint, so that they fit each other.
    """
    folder = store.converted(spec, _convert, progress)
    store.made(ENCODER, spec, _convert_encoder, is_encoder, progress)
    return folder


def find_halves(spec: ModelSpec, store: ModelStore) -> Path | None:
    """Look for both folders; neither fetches nor converts."""
    if not store.has_checkpoint(spec):
        return None
    folder, encoder = store.place_of("converted", spec), store.place_of(ENCODER, spec)
    return folder if is_converted(folder) and is_encoder(encoder) else None


def encoder_beside(folder: Path) -> Path:
    """The folder for OpenVINO that belongs to one for CTranslate2."""
    return folder.with_name(ENCODER + folder.name.removeprefix("converted"))


def is_encoder(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ENCODER_FILES)


def _convert_encoder(checkpoint: Path, folder: Path) -> None:
    from speech.engines.encoder import convert  # noqa: PLC0415 - as below

    convert(checkpoint, folder)


def _convert(checkpoint: Path, folder: Path) -> None:
    # A worker that only runs CTranslate2 has no torch in its memory until it converts.
    from speech.engines.convert import convert  # noqa: PLC0415

    convert(checkpoint, folder)


def _cached(spec: ModelSpec, store: ModelStore) -> Path | None:
    if spec.hub_repository is None or not store.cache_dir.is_dir():
        return None
    try:
        folder = Path(
            snapshot_download(
                spec.hub_repository,
                revision=spec.hub_revision,
                cache_dir=store.cache_dir,
                allow_patterns=_PATTERNS,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    # Of a download that broke off, the folder may be there without all of its files.
    return folder if is_converted(folder) else None


def _download(spec: ModelSpec, repository: str, store: ModelStore, progress: Progress) -> Path:
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=spec.hub_revision,
                cache_dir=store.cache_dir,
                allow_patterns=_PATTERNS,
                endpoint=store.hub_endpoint,
                tqdm_class=_bar(progress),
                max_workers=2,
            )
        )
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise _unavailable(spec, store, f"it could not be fetched ({error})") from error
    if not is_converted(folder):
        raise _unavailable(spec, store, "the repository lacks some of its files")
    return folder


def _unavailable(spec: ModelSpec, store: ModelStore, reason: str) -> errors.ModelUnavailable:
    return errors.ModelUnavailable(
        f"The model {spec.name} is not here for faster-whisper, and {reason}. Put the files of "
        f"https://huggingface.co/{spec.hub_repository} in {store.cache_dir}"
        f"/faster-whisper-{spec.name}, or {spec.checkpoint_url} at "
        f"{store.checkpoint_path(spec)}.",
        model=spec.name,
    )


def _bar(progress: Progress) -> type[Any]:
    """The hub's progress bar that shows nothing and tells ``progress`` instead."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # as they wrote it
            self.total = kwargs.get("total")
            self.in_bytes = kwargs.get("unit") == "B"
            self.done = 0

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            if self.in_bytes:
                progress(self.done, int(self.total or 0) or None)

    return Bar
