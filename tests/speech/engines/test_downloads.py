"""Downloads over a real connection to a server that misbehaves."""

import contextlib
import hashlib
import socket
import subprocess
from pathlib import Path

import pytest

import errors
from speech.engines import downloads
from speech.engines.downloads import Patience
from speech.engines.store import ignore
from tests.speech.engines.web import Fault, Site

CONTENT = hashlib.shake_256(b"a model").digest(1_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, wait_seconds=0.001, stall_seconds=0.2)


class Cancelled(Exception):
    pass


def fetch(url: str, target: Path, progress=ignore, *, patience=QUICK) -> None:
    downloads.download(url, target, sha256=DIGEST, progress=progress, patience=patience)


@pytest.fixture
def url(site: Site) -> str:
    site.files["/model.pt"] = CONTENT
    return f"{site.url}/model.pt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_a_file_comes_whole(url, target):
    fetch(url, target)

    assert target.read_bytes() == CONTENT


def test_nothing_else_is_left(url, target):
    fetch(url, target)

    assert list(target.parent.iterdir()) == [target]


def test_progress_ends_with_all_bytes(url, target):
    seen: list[tuple[int, int | None]] = []

    fetch(url, target, lambda *numbers: seen.append(numbers))

    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_cut_connection_is_taken_up_where_it_broke(site, url, target):
    site.faults = [Fault(after=400_000)]

    fetch(url, target)

    assert target.read_bytes() == CONTENT
    assert site.gets("/model.pt") == [None, "bytes=400000-"]


def test_a_file_that_comes_in_many_pieces_is_no_failure(site, url, target):
    """Each connection brings something, so their number does not matter."""
    site.faults = [Fault(after=100_000)] * 8

    fetch(url, target, patience=QUICK)

    assert target.read_bytes() == CONTENT


def test_a_server_that_falls_silent_is_asked_again(site, url, target):
    site.faults = [Fault(after=300_000, hold=True)]

    fetch(url, target)

    assert target.read_bytes() == CONTENT
    assert site.gets("/model.pt") == [None, "bytes=300000-"]


def test_an_earlier_process_s_bytes_are_used(site, url, target):
    target.with_name("model.pt.part").write_bytes(CONTENT[:250_000])

    fetch(url, target)

    assert target.read_bytes() == CONTENT
    assert site.gets("/model.pt") == ["bytes=250000-"]


def test_an_earlier_process_s_whole_file_is_used(site, url, target):
    """Killed after the last byte and before the check."""
    target.with_name("model.pt.part").write_bytes(CONTENT)

    fetch(url, target)

    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(site, url, target):
    target.with_name("model.pt.part").write_bytes(CONTENT[:250_000])
    site.faults = [Fault(ignores_range=True)]

    fetch(url, target)

    assert target.read_bytes() == CONTENT


def test_wrong_bytes_of_an_earlier_process_are_fetched_again(site, url, target):
    target.with_name("model.pt.part").write_bytes(b"x" * 250_000)

    fetch(url, target)

    assert target.read_bytes() == CONTENT
    assert site.gets("/model.pt") == ["bytes=250000-", None]


def test_a_wrong_file_is_fetched_twice_and_thrown_away(site, url, target):
    site.files["/model.pt"] = CONTENT[::-1]

    with pytest.raises(errors.ModelUnavailable, match="wrong SHA-256"):
        fetch(url, target)

    assert site.gets("/model.pt") == [None, None]
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_believed_at_once(site, url, target, status):
    site.faults = [Fault(status=status)]

    with pytest.raises(errors.ModelUnavailable, match=str(status)):
        fetch(url, target)

    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(site, url, target, status):
    site.faults = [Fault(status=status), Fault(status=status)]

    fetch(url, target)

    assert target.read_bytes() == CONTENT


def test_a_broken_server_is_given_up(site, url, target):
    site.faults = [Fault(status=500)] * 10

    with pytest.raises(errors.ModelUnavailable, match="500"):
        fetch(url, target)

    assert len(site.requests) == QUICK.attempts


def test_without_a_network_the_error_says_so(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(errors.ModelUnavailable, match="refused"):
        fetch(f"http://127.0.0.1:{port}/model.pt", target)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://example.org/model.pt", "model"])
def test_only_the_web_is_downloaded_from(target, address):
    with pytest.raises(errors.ModelUnavailable):
        fetch(address, target)


def test_what_progress_raises_stops_the_download_and_keeps_the_bytes(url, target):
    def cancel(bytes_done: int, _: int | None) -> None:
        if bytes_done >= 500_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch(url, target, cancel)

    assert CONTENT.startswith(target.with_name("model.pt.part").read_bytes())
    fetch(url, target)
    assert target.read_bytes() == CONTENT


def test_waiting_for_another_try_can_be_cancelled(site, url, target):
    site.faults = [Fault(status=503)]

    def cancel(_: int, __: int | None) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        fetch(url, target, cancel, patience=Patience(wait_seconds=3600))


@contextlib.contextmanager
def small_disk(folder: Path, size: int):
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_is_freed(url, tmp_path):
    with small_disk(tmp_path, 512 * 1024):
        with pytest.raises(errors.ModelUnavailable, match="No space left"):
            fetch(url, tmp_path / "model.pt")

        assert not list(tmp_path.iterdir())


def test_a_lock_keeps_others_out(tmp_path):
    def cancel(_: int, __: int | None) -> None:
        raise Cancelled

    with (
        downloads.exclusive(tmp_path / "lock", ignore),
        pytest.raises(Cancelled),
        downloads.exclusive(tmp_path / "lock", cancel),
    ):
        pytest.fail("two had the lock")


def test_a_lock_is_free_again_afterwards(tmp_path):
    with downloads.exclusive(tmp_path / "lock", ignore):
        pass

    with downloads.exclusive(tmp_path / "lock", ignore):
        pass


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()

    with (
        pytest.raises(errors.ModelUnavailable),
        downloads.exclusive(tmp_path / "file" / "lock", ignore),
    ):
        pass
