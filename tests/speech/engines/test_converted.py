"""How a model for faster-whisper is come by."""

import hashlib
import io
from pathlib import Path

import pytest
import torch

import errors
from speech.engines import ModelKey, fetch
from speech.engines.catalogue import FASTER_WHISPER, ModelSpec
from speech.engines.converted import fetch as fetch_spec
from speech.engines.downloads import Patience
from speech.engines.store import DEMO_CHECKPOINT, ModelStore, ignore, is_converted
from tests.speech.engines.checkpoints import write_checkpoint
from tests.speech.engines.web import COMMIT, Fault, Site, hub_files

REPOSITORY = "Systran/faster-whisper-tiny"
MODEL = hashlib.shake_256(b"a model").digest(400_000)
FILES = {
    "README.md": b"not wanted",
    "config.json": b"{}",
    "model.bin": MODEL,
    "tokenizer.json": b'{"a": 1}',
    "vocabulary.txt": b"a b c",
}
QUICK = Patience(attempts=2, wait_seconds=0.001, stall_seconds=5.0)


class Cancelled(Exception):
    pass


def spec(*, sha256: str = "0" * 64, hub_revision: str | None = None) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        parameters=1,
        sha256=sha256,
        hub_repository=REPOSITORY,
        hub_revision=hub_revision,
    )


@pytest.fixture
def store(site: Site, tmp_path: Path) -> ModelStore:
    site.files |= hub_files(REPOSITORY, FILES)
    return ModelStore(tmp_path / "models", hub_endpoint=site.url, patience=QUICK)


def offline(store: ModelStore) -> ModelStore:
    return ModelStore(store.cache_dir, download_allowed=False)


def test_a_model_is_fetched_from_the_hub(store):
    folder = fetch_spec(spec(), store, progress=ignore)

    assert (folder / "model.bin").read_bytes() == MODEL
    assert is_converted(folder)


def test_only_what_the_engine_needs_is_fetched(store):
    folder = fetch_spec(spec(), store, progress=ignore)

    assert {path.name for path in folder.iterdir()} == FILES.keys() - {"README.md"}


def test_a_pinned_commit_is_fetched_without_asking_for_the_newest(store, site):
    folder = fetch_spec(spec(hub_revision=COMMIT), store, progress=ignore)

    assert folder.name == COMMIT
    assert not any(path.endswith("/revision/main") for _, path, _ in site.requests)


def test_a_model_of_the_hub_lies_where_its_own_tools_would_put_it(store):
    fetch_spec(spec(), store, progress=ignore)

    assert (store.cache_dir / "models--Systran--faster-whisper-tiny").is_dir()


def test_a_fetched_model_needs_no_web_any_more(store, site):
    folder = fetch_spec(spec(), store, progress=ignore)
    asked = len(site.requests)

    assert fetch_spec(spec(), offline(store), progress=ignore) == folder
    assert len(site.requests) == asked


def test_progress_tells_the_bytes(store):
    seen: list[tuple[int, int | None]] = []

    fetch_spec(spec(), store, progress=lambda *numbers: seen.append(numbers))

    size = sum(len(content) for name, content in FILES.items() if name != "README.md")
    assert max(done for done, _ in seen) == size


def test_what_progress_raises_stops_the_download(store):
    def cancel(bytes_done: int, _: int | None) -> None:
        if bytes_done:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch_spec(spec(), store, progress=cancel)


def test_a_broken_off_download_is_no_model(store):
    folder = fetch_spec(spec(), store, progress=ignore)
    (folder / "model.bin").unlink()

    with pytest.raises(errors.ModelUnavailable):
        fetch_spec(spec(), offline(store), progress=ignore)


def test_a_repository_without_all_files_is_an_error(store, site):
    site.files = hub_files(REPOSITORY, {"model.bin": MODEL, "config.json": b"{}"})

    with pytest.raises(errors.ModelUnavailable, match="lacks"):
        fetch_spec(spec(), store, progress=ignore)


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_hub_that_refuses_is_an_error_that_says_what_to_put_where(store, site, status):
    site.faults = [Fault(status=status)] * 20

    with pytest.raises(errors.ModelUnavailable) as caught:
        fetch_spec(spec(), store, progress=ignore)

    assert f"https://huggingface.co/{REPOSITORY}" in caught.value.message
    assert str(store.cache_dir / "faster-whisper-tiny") in caught.value.message


def test_offline_a_missing_model_is_an_error_that_says_what_to_put_where(store, site):
    with pytest.raises(errors.ModelUnavailable, match="faster-whisper-tiny"):
        fetch_spec(spec(), offline(store), progress=ignore)

    assert site.requests == []


def test_the_operator_s_own_folder_wins(store, site):
    folder = store.cache_dir / "faster-whisper-tiny"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)

    assert fetch_spec(spec(), store, progress=ignore) == folder
    assert site.requests == []


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    write_checkpoint(buffer)
    return buffer.getvalue()


@pytest.mark.model
def test_a_checkpoint_that_is_here_is_converted_and_nothing_fetched(store, site):
    content = checkpoint()
    store.cache_dir.mkdir()
    (store.cache_dir / "tiny.pt").write_bytes(content)

    folder = fetch_spec(spec(sha256=hashlib.sha256(content).hexdigest()), store, progress=ignore)

    assert is_converted(folder)
    assert site.requests == []


@pytest.mark.model
def test_from_a_mirror_of_checkpoints_the_model_is_made(site, tmp_path):
    content = checkpoint()
    site.files["/tiny.pt"] = content
    store = ModelStore(tmp_path / "models", base_url=site.url)

    folder = fetch_spec(spec(sha256=hashlib.sha256(content).hexdigest()), store, progress=ignore)

    assert is_converted(folder)
    assert [path for _, path, _ in site.requests] == ["/tiny.pt"]


@pytest.mark.model
def test_the_demo_model_is_converted_offline(tmp_path):
    store = ModelStore(tmp_path / "models", download_allowed=False)

    folder = fetch(ModelKey(FASTER_WHISPER, "demo", "cpu", "float32"), store)

    assert is_converted(folder)
    assert torch.load(DEMO_CHECKPOINT, weights_only=True)["dims"]["n_vocab"] == 51865
