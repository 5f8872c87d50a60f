"""What ``doctor`` looks at on the machine that it runs on: programs, folders, models."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from commands.findings import Check, Finding, fail, ok, skip, warn
from config import VERSION, Settings
from errors import StorageUnavailable, UnknownModel
from jobs.uploads import PART_DIR, UploadStore
from speech import engines
from speech.engines import ModelKey, ModelStore, catalogue

OLDEST_PYTHON: Final = (3, 11)
#: The library that each engine needs; where there is none, no worker runs.
LIBRARIES: Final = {"openai-whisper": "whisper", "faster-whisper": "faster_whisper"}
#: Decoded audio: 32 bits, 16 kHz.
SCRATCH_BYTES_PER_HOUR: Final = 4 * 16_000 * 3600
#: Reading a model of 3 GB, on a slow disk.
MODEL_PATIENCE_SECONDS: Final = 60.0

MOUNT: Final = "Mount the volume, or mend UPLOAD_DIR; the web process makes the folder ready."
NO_WORKER_HERE: Final = "no worker runs here (in Compose: `docker compose exec worker …`)"


def versions(_settings: Settings) -> Iterator[Finding]:
    here = f"Python {platform.python_version()}, service {VERSION}, {platform.platform(terse=True)}"
    if sys.version_info < OLDEST_PYTHON:
        yield fail(f"{here}.", "Move to Python 3.11 or newer.")
    else:
        yield ok(here)


def uploads(settings: Settings) -> Iterator[Finding]:
    store = UploadStore(
        settings.uploads_path,
        max_bytes=settings.max_upload_bytes,
        min_free_bytes=settings.min_free_bytes,
    )
    try:
        space = store.space()
    except StorageUnavailable:
        yield fail(f"{store.root} is no store of uploads.", MOUNT)
        return
    free = f"{_gigabytes(space.free_bytes)} free in {store.root}"
    if space.free_bytes < store.min_free_bytes:
        yield fail(
            f"{free}: submissions are refused.",
            "Free space; lower AUDIO_RETENTION or MIN_FREE_DISK_MB.",
        )
    elif space.free_bytes - store.max_bytes < store.min_free_bytes:
        yield warn(
            f"{free}: the largest uploads are refused.",
            "Free space; lower AUDIO_RETENTION or MIN_FREE_DISK_MB.",
        )
    else:
        yield ok(free)
    yield _writable_uploads(store.root)
    if store.root.stat().st_dev != (store.root / PART_DIR).stat().st_dev:
        yield fail(
            f"{PART_DIR} lies on another filesystem than the uploads, which cannot be renamed.",
            f"Have all of {store.root} on one filesystem.",
        )


def _writable_uploads(root: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=root / PART_DIR):
            return ok("it can be written")
    except OSError as error:
        told = f"It cannot be written: {error.strerror}."
        if _engine_is_here():
            return warn(told, "That suits a worker; web and maintenance have to write there.")
        return fail(told, f"Give {root} to the user of the web process, mounted for writing.")


def scratch(settings: Settings) -> Iterator[Finding]:
    if not _engine_is_here():
        yield skip(NO_WORKER_HERE)
        return
    folder = settings.scratch_path
    # the first attempt makes it; looking makes nothing
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        yield fail(
            f"{folder} cannot be written: {error.strerror}.",
            "Give it to the user of the worker, or mend SCRATCH_DIR.",
        )
        return
    free = f"{_gigabytes(free_bytes)} free in {folder}"
    needed = int(settings.max_audio_hours * SCRATCH_BYTES_PER_HOUR) * settings.celery_concurrency
    if free_bytes < needed:
        yield warn(
            f"{free}; {settings.celery_concurrency} of the longest recordings at once take"
            f" {_gigabytes(needed)}.",
            "Free space; lower MAX_AUDIO_HOURS or CELERY_CONCURRENCY.",
        )
    else:
        yield ok(free)


def model(settings: Settings) -> Iterator[Finding]:
    try:
        spec = catalogue.resolve(settings.whisper_model_size)
    except UnknownModel:
        yield fail(
            f"There is no model {settings.whisper_model_size}.",
            f"Set WHISPER_MODEL_SIZE to one of {', '.join(catalogue.NAMES)}.",
        )
        return
    if not _engine_is_here():
        yield skip(NO_WORKER_HERE)
        return
    if importlib.util.find_spec(LIBRARIES[settings.whisper_engine]) is None:
        yield fail(
            f"{settings.whisper_engine} is not installed.",
            "Run `pip install -r requirements.txt`, or set WHISPER_ENGINE to the other one.",
        )
        return
    store = ModelStore(settings.models_path, download_allowed=False)
    # where it will run does not matter to its files
    key = ModelKey(settings.whisper_engine, spec.name, "cpu", "float32")
    if (found := engines.find(key, store)) is not None:
        yield ok(f"{spec.name} for {settings.whisper_engine}: {found}")
        return
    place = store.checkpoint_path(spec)
    state = f"{place} is damaged" if place.exists() else f"{spec.name} is not in {store.cache_dir}"
    pull = f"Run `python cli.py models pull {spec.name}`"
    if settings.model_download:
        yield warn(f"{state}: the first job fetches it.", f"{pull}, to have it now.")
    else:
        yield fail(
            f"{state}, and MODEL_DOWNLOAD is off.",
            f"{pull} where downloads are allowed (`docker compose up models`), or put"
            f" {spec.checkpoint_url} at {place}.",
        )


def model_folder(settings: Settings) -> Iterator[Finding]:
    if not _engine_is_here():
        yield skip(NO_WORKER_HERE)
        return
    folder = settings.models_path
    if not folder.exists():
        yield ok(f"{folder} is made when a model is fetched")
        return
    free = f"{_gigabytes(shutil.disk_usage(folder).free)} free in {folder}"
    if not folder.is_dir():
        yield fail(f"{folder} is no folder.", "Move it away, or mend MODEL_CACHE_DIR.")
    elif settings.model_download and not os.access(folder, os.W_OK):
        yield fail(
            f"{folder} cannot be written, and models are to be downloaded.",
            "Give it to the user of the worker, or set MODEL_DOWNLOAD=false.",
        )
    else:
        yield ok(free)


def _engine_is_here() -> bool:
    return any(importlib.util.find_spec(library) for library in LIBRARIES.values())


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GB"


CHECKS: Final = (
    Check("versions", versions, "Install the service anew."),
    Check("uploads", uploads, MOUNT),
    Check("scratch", scratch, "Mend SCRATCH_DIR."),
    Check("model", model, "Mend MODEL_CACHE_DIR.", MODEL_PATIENCE_SECONDS),
    Check("models", model_folder, "Mend MODEL_CACHE_DIR."),
)
