"""The folder of model files."""

import hashlib
import logging
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

import errors
from speech.engines import catalogue
from speech.engines.catalogue import ModelSpec
from speech.engines.downloads import Patience
from speech.engines.store import DEMO_CHECKPOINT, ModelStore, building, is_converted
from tests.speech.engines.web import Fault, Site

CONTENT = hashlib.shake_256(b"a model").digest(600_000)
SPEC = ModelSpec(
    name="tiny",
    parameters=300_000,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    hub_repository="Systran/faster-whisper-tiny",
)
QUICK = Patience(attempts=2, wait_seconds=0.001, stall_seconds=5.0)


@pytest.fixture
def store(site: Site, tmp_path: Path) -> ModelStore:
    site.files["/tiny.pt"] = CONTENT
    return ModelStore(tmp_path / "models", base_url=site.url + "/", patience=QUICK)


@pytest.fixture
def offline(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", download_allowed=False)


def put(store: ModelStore, content: bytes) -> Path:
    path = store.checkpoint_path(SPEC)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_missing_checkpoint_is_downloaded(store):
    assert store.checkpoint(SPEC).read_bytes() == CONTENT


def test_a_checkpoint_lies_where_openai_whisper_would_put_it(store):
    assert store.checkpoint(SPEC) == store.cache_dir / "tiny.pt"


def test_a_checkpoint_is_downloaded_once(store, site):
    store.checkpoint(SPEC)
    store.checkpoint(SPEC)

    assert len(site.requests) == 1


def test_a_checkpoint_that_is_here_needs_no_web(offline):
    path = put(offline, CONTENT)

    assert offline.checkpoint(SPEC) == path


def test_a_folder_that_cannot_be_written_is_good_enough_to_read(offline):
    path = put(offline, CONTENT)
    path.parent.chmod(0o555)

    assert offline.checkpoint(SPEC) == path
    assert list(offline.cache_dir.iterdir()) == [path]


def test_a_damaged_checkpoint_is_replaced(store):
    put(store, CONTENT[:-1] + b"x")

    assert store.checkpoint(SPEC).read_bytes() == CONTENT


def test_a_checkpoint_is_read_through_once_only(offline, caplog):
    """And again when it has changed."""
    path = put(offline, CONTENT)
    assert offline.has_checkpoint(SPEC)
    path.write_bytes(CONTENT[:-1])

    assert not offline.has_checkpoint(SPEC)
    assert [record.model for record in caplog.records] == ["tiny"]


def test_offline_the_error_says_which_file_to_put_where(offline):
    with pytest.raises(errors.ModelUnavailable) as caught:
        offline.checkpoint(SPEC)

    message = caught.value.message
    assert "is not here" in message
    assert str(SPEC.checkpoint_url) in message
    assert str(offline.cache_dir / "tiny.pt") in message
    assert str(SPEC.sha256) in message


def test_offline_a_damaged_file_is_called_damaged_and_kept(offline):
    path = put(offline, b"half")

    with pytest.raises(errors.ModelUnavailable, match="is damaged"):
        offline.checkpoint(SPEC)

    assert path.read_bytes() == b"half"


def test_a_failed_download_says_why_and_which_file_to_put_where(store, site):
    site.files.clear()

    with pytest.raises(errors.ModelUnavailable) as caught:
        store.checkpoint(SPEC)

    assert "answers 404" in caught.value.message
    assert str(store.cache_dir / "tiny.pt") in caught.value.message


def test_a_folder_that_cannot_be_made_is_an_error(site, tmp_path):
    (tmp_path / "file").touch()
    store = ModelStore(tmp_path / "file" / "models", base_url=site.url)

    with pytest.raises(errors.ModelUnavailable):
        store.checkpoint(SPEC)


def test_progress_is_logged_with_numbers_only(store, caplog):
    caplog.set_level(logging.INFO)

    store.checkpoint(SPEC)

    [record] = [r for r in caplog.records if r.getMessage() == "downloading model"]
    assert (record.model, record.bytes_total) == ("tiny", len(CONTENT))


CHILD = """
import sys
from pathlib import Path
from speech.engines.store import ModelStore
from tests.speech.engines.test_store import QUICK, SPEC

def progress(done, total):
    print("downloading" if done else "waiting", flush=True)

store = ModelStore(Path(sys.argv[1]), base_url=sys.argv[2], patience=QUICK)
print(store.checkpoint(SPEC, progress), flush=True)
"""


def test_two_processes_that_want_the_same_model_download_it_once(site, tmp_path):
    site.files["/tiny.pt"] = CONTENT
    site.faults = [Fault(after=0, hold=True)]  # so one hears nothing, and the other waits for it
    command = [sys.executable, "-c", CHILD, str(tmp_path), site.url]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with children[0], children[1]:
        first_line = read_first_line(children)
        site.released.set()
        outputs = [child.communicate(timeout=60)[0] for child in children]

    assert first_line == "waiting\n"
    assert [output.splitlines()[-1] for output in outputs] == [str(tmp_path / "tiny.pt")] * 2
    assert site.gets("/tiny.pt") == [None]


def read_first_line(children) -> str:
    """Read a line of whichever child writes first."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.stdout, selectors.EVENT_READ)
        [(ready, _), *_] = selector.select(timeout=60)
        line: str = ready.fileobj.readline()  # type: ignore[union-attr]  # a pipe
        return line


def test_a_killed_process_leaves_no_lock(store, site):
    site.faults = [Fault(after=200_000, hold=True)]
    command = [sys.executable, "-c", CHILD, str(store.cache_dir), site.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert read_first_line([child]) == "downloading\n"
        child.kill()

    assert store.checkpoint(SPEC).read_bytes() == CONTENT


def test_the_demo_model_is_never_downloaded(store, site):
    store.checkpoint(catalogue.resolve("demo"))

    assert site.requests == []


def test_the_demo_model_is_this_program_s_own(offline):
    assert offline.checkpoint(catalogue.resolve("demo")) == DEMO_CHECKPOINT


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).touch()


def test_a_folder_that_the_operator_put_here_is_found(offline):
    fill(offline.cache_dir / "faster-whisper-tiny")

    assert offline.placed(SPEC) == offline.cache_dir / "faster-whisper-tiny"


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"])
def test_a_folder_without_all_of_its_files_is_not_one(tmp_path, name):
    fill(tmp_path)
    (tmp_path / name).unlink()

    assert not is_converted(tmp_path)


def convert(checkpoint: Path, folder: Path) -> None:
    fill(folder)
    (folder / "model.bin").write_bytes(checkpoint.read_bytes())


def test_a_model_is_converted_once(store):
    put(store, CONTENT)
    first = store.converted(SPEC, convert)

    assert store.converted(SPEC, pytest.fail) == first
    assert (first / "model.bin").read_bytes() == CONTENT


def test_another_checkpoint_is_converted_anew(store):
    put(store, CONTENT)
    other = ModelSpec(name="tiny", parameters=1, sha256=hashlib.sha256(b"other").hexdigest())
    old = store.converted(SPEC, convert)
    put(store, b"other")

    assert store.converted(other, convert) != old


def test_a_cached_folder_in_pieces_is_made_again(store):
    put(store, CONTENT)
    folder = store.converted(SPEC, convert)
    (folder / "config.json").unlink()
    (folder / "stray").touch()

    def convert_at_once(checkpoint: Path, target: Path) -> None:
        with building(target) as draft:
            convert(checkpoint, draft)

    store.converted(SPEC, convert_at_once)

    assert is_converted(folder)
    assert not (folder / "stray").exists()


def build(folder: Path) -> None:
    with building(folder) as draft:
        fill(draft)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "new").mkdir()
    build(tmp_path / "new")

    assert is_converted(tmp_path / "new")


@pytest.mark.parametrize("occupy", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_has_the_name_already_is_left_alone(tmp_path, occupy):
    occupy(tmp_path / "mine")
    before = (tmp_path / "mine").lstat()

    with pytest.raises(errors.ModelUnavailable, match="something is there already"):
        build(tmp_path / "mine")

    assert (tmp_path / "mine").lstat() == before


@pytest.mark.parametrize("files", [[], ["thesis.txt"]])
def test_the_current_folder_is_never_replaced(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path(name).touch()

    with pytest.raises(errors.ModelUnavailable, match="something is there already"):
        build(Path())

    assert [path.name for path in tmp_path.iterdir()] == files


def test_what_comes_to_be_there_meanwhile_is_left_alone(tmp_path):
    def build_too_late() -> None:
        with building(tmp_path / "mine") as draft:
            fill(draft)
            (tmp_path / "mine").mkdir()
            (tmp_path / "mine" / "thesis.txt").touch()

    with pytest.raises(errors.ModelUnavailable, match="Directory not empty"):
        build_too_late()

    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]
