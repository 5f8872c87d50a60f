"""The folder of model files: what is there, and how what is not comes there."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import errors
from speech.engines import downloads
from speech.engines.catalogue import DEMO, ModelSpec
from speech.engines.downloads import Patience, Progress

logger = logging.getLogger(__name__)

DEMO_CHECKPOINT = Path(__file__).with_name("demo.pt")

#: Progress of a download goes to the log this often, at most.
LOG_SECONDS = 10.0

#: What a folder must hold for CTranslate2 and faster-whisper; without the tokenizer the latter
#: would look for one on the web.
CONVERTED_FILES = ("model.bin", "config.json", "tokenizer.json")


def ignore(bytes_done: int, bytes_total: int | None) -> None:
    """Be a ``Progress`` that nobody watches."""


class ModelStore:
    """The model files in one folder, shared by all processes of a machine.

    Its names are those that the engines' own tools use: ``base.pt`` as openai-whisper's
    ``download_root`` has it, ``models--…`` as Hugging Face's cache does; and a folder such as
    ``faster-whisper-base`` with a converted model that the operator put there.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        download_allowed: bool = True,
        base_url: str | None = None,
        hub_endpoint: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Nothing is read or made before a model is asked for.

        Args:
            base_url: A mirror that has ``base.pt`` and the like directly under this address. With
                one, faster-whisper's models are made from these too, not fetched from the hub.
            hub_endpoint: Instead of huggingface.co.
        """
        self.cache_dir = cache_dir
        self.download_allowed = download_allowed
        self.base_url = base_url
        self.hub_endpoint = hub_endpoint
        self._patience = patience or Patience()
        #: Path, size and time of files whose digest was right: hashing 3 GB takes seconds.
        self._good: set[tuple[Path, int, int]] = set()

    def checkpoint(self, spec: ModelSpec, progress: Progress = ignore) -> Path:
        """Return openai-whisper's checkpoint, downloading it if need be.

        Raises:
            ModelUnavailable: it is not here and cannot be had; the message says what to put where.
        """
        path = self.checkpoint_path(spec)
        if self.has_checkpoint(spec):
            return path
        url = spec.checkpoint_url
        if url is None or spec.sha256 is None:
            raise errors.ModelUnavailable(f"{path} is missing from this installation.")
        if not self.download_allowed:
            raise self._unavailable(spec, "downloads are switched off")
        if self.base_url:
            url = f"{self.base_url.rstrip('/')}/{spec.checkpoint_name}"
        try:
            with self.locked(spec.checkpoint_name, progress):
                if not self.has_checkpoint(spec):  # another process may have brought it meanwhile
                    downloads.download(
                        url,
                        path,
                        sha256=spec.sha256,
                        progress=logged(progress, spec.name),
                        patience=self._patience,
                    )
        except errors.ModelUnavailable as error:
            raise self._unavailable(spec, error.message.rstrip(".")) from error
        return path

    def checkpoint_path(self, spec: ModelSpec) -> Path:
        """Where openai-whisper's checkpoint is, or would be."""
        return DEMO_CHECKPOINT if spec.name == DEMO else self.cache_dir / spec.checkpoint_name

    def has_checkpoint(self, spec: ModelSpec) -> bool:
        """Whether the checkpoint is here, whole. Reads all of it the first time."""
        path = self.checkpoint_path(spec)
        if not path.is_file():
            return False
        if spec.sha256 is None:
            return True
        status = path.stat()
        stamp = (path, status.st_size, status.st_mtime_ns)
        if stamp not in self._good:
            if downloads.sha256_of(path) != spec.sha256:
                logger.warning("model file is damaged", extra={"model": spec.name})
                return False
            self._good.add(stamp)
        return True

    def placed(self, spec: ModelSpec) -> Path | None:
        """Return the converted model that the operator put here, if there is one."""
        folder = self.cache_dir / f"faster-whisper-{spec.name}"
        return folder if is_converted(folder) else None

    def converted(
        self, spec: ModelSpec, convert: Callable[[Path, Path], None], progress: Progress = ignore
    ) -> Path:
        """Return the model for CTranslate2, made from openai-whisper's checkpoint.

        Args:
            convert: Makes a converted folder (the second path) of a checkpoint (the first).

        Raises:
            ModelUnavailable: there is no checkpoint, or the folder cannot be made.
        """
        return self.made("converted", spec, convert, is_converted, progress)

    def made(
        self,
        kind: str,
        spec: ModelSpec,
        make: Callable[[Path, Path], None],
        is_whole: Callable[[Path], bool],
        progress: Progress = ignore,
    ) -> Path:
        """Return a folder that is made from openai-whisper's checkpoint, once.

        Args:
            kind: What it holds: the beginning of its name.
            make: Makes the folder (the second path) of a checkpoint (the first), all at once.
            is_whole: Whether a folder holds all that it should.

        Raises:
            ModelUnavailable: there is no checkpoint, or the folder cannot be made.
        """
        checkpoint = self.checkpoint(spec, progress)
        folder = self.place_of(kind, spec)
        if is_whole(folder):
            return folder
        with self.locked(folder.name, progress):
            if not is_whole(folder):
                logger.info("converting model", extra={"model": spec.name, "kind": kind})
                # What is there is in pieces, and this folder's name is ours.
                shutil.rmtree(folder, ignore_errors=True)
                make(checkpoint, folder)
        return folder

    def place_of(self, kind: str, spec: ModelSpec) -> Path:
        """Where a folder lies that is made from a checkpoint."""
        # Another checkpoint, as a demo model of a later version is, gets another folder.
        digest = spec.sha256 or downloads.sha256_of(self.checkpoint_path(spec))
        return self.cache_dir / f"{kind}-{spec.name}-{digest[:8]}"

    def locked(self, name: str, progress: Progress) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from making the same thing."""
        return downloads.exclusive(self.cache_dir / ".locks" / name, progress)

    def _unavailable(self, spec: ModelSpec, reason: str) -> errors.ModelUnavailable:
        path = self.checkpoint_path(spec)
        state = "is damaged" if path.exists() else "is not here"
        return errors.ModelUnavailable(
            f"The model {spec.name} {state}, and {reason}. Put the file {spec.checkpoint_url} "
            f"at {path} (SHA-256 {spec.sha256}).",
            model=spec.name,
        )


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill that becomes ``folder`` all at once, or vanishes.

    Raises:
        ModelUnavailable: it cannot be made or written, or something is there already.
    """
    target = folder.absolute()
    try:
        if not _has_room(target):
            raise errors.ModelUnavailable(
                f"{folder} cannot be made: something is there already. Name a new folder."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield draft
            draft.chmod(0o755)
            # Takes the place of an empty folder, and of nothing else.
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise errors.ModelUnavailable(f"{folder} cannot be made: {error.strerror}.") from error


def _has_room(target: Path) -> bool:
    """Whether nothing is lost when a folder of that name is made."""
    if target.is_symlink() or not target.is_dir():
        return not target.is_symlink() and not target.exists()
    # Whoever stands in a folder would go on seeing the old one.
    return not any(target.iterdir()) and not target.samefile(Path.cwd())


def is_converted(folder: Path) -> bool:
    """Whether a folder holds all that faster-whisper needs of a model."""
    return all((folder / name).is_file() for name in CONVERTED_FILES) and any(
        (folder / f"vocabulary.{suffix}").is_file() for suffix in ("json", "txt")
    )


def logged(progress: Progress, model: str) -> Progress:
    """Also write progress to the log, now and then."""
    due = time.monotonic()

    def log(bytes_done: int, bytes_total: int | None) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LOG_SECONDS
            logger.info(
                "downloading model",
                extra={"model": model, "bytes_done": bytes_done, "bytes_total": bytes_total},
            )
        progress(bytes_done, bytes_total)

    return log
