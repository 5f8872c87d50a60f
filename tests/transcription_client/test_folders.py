"""Which files of a watched folder are due, and in which order."""

import os
import re
from datetime import date, datetime
from pathlib import Path

import pytest

from tests.recordings import PROJECT_DIR
from transcription_client.folders import SUFFIXES, Found, Stability, find, in_order, is_old


def put(folder: Path, name: str, *, at: float = 1000.0, content: str = "sound") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    os.utime(path, (at, at))
    return path


def names(files: list[Found]) -> list[str]:
    return [file.path.name for file in files]


def test_sound_and_video_are_found_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.mp3", "B.WAV", "film.mkv", "notes.txt", ".half.mp3", "none", "inner/c.mp3"):
        put(tmp_path, name)
    put(tmp_path, "empty.mp3", content="")
    (tmp_path / "folder.mp3").mkdir()
    (tmp_path / "gone.mp3").symlink_to(tmp_path / "nowhere")

    assert names(list(find([tmp_path], deep=False))) == ["B.WAV", "a.mp3", "film.mkv"]
    assert "c.mp3" in names(list(find([tmp_path], deep=True)))


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert list(find([tmp_path / "none"], deep=True)) == []


def test_what_the_readme_says_can_be_read_is_looked_at() -> None:
    readme = (PROJECT_DIR / "README.md").read_text("utf-8")
    told = re.search(r"Sound or video: (.*?);", readme, re.DOTALL)

    assert told is not None
    named = {f".{name}" for name in re.findall(r"\w+", told[1])}
    # alac is a codec, and comes in other files
    assert named - {".alac"} <= SUFFIXES


def test_urgent_ones_go_first_and_then_the_newest(tmp_path: Path) -> None:
    put(tmp_path, "old.mp3", at=1000)
    put(tmp_path, "new.mp3", at=3000)
    put(tmp_path, "oldest_Priority.mp3", at=500)
    put(tmp_path, "PRIORITY.mp3", at=2000)
    files = list(find([tmp_path], deep=False))

    newest = in_order(files, newest_first=True)
    assert names(newest) == ["PRIORITY.mp3", "oldest_Priority.mp3", "new.mp3", "old.mp3"]
    oldest = in_order(files, newest_first=False)
    assert names(oldest) == ["oldest_Priority.mp3", "PRIORITY.mp3", "old.mp3", "new.mp3"]


@pytest.mark.parametrize(
    ("day", "old"), [(None, False), (date(2025, 12, 1), False), (date(2025, 12, 2), True)]
)
def test_what_was_changed_before_a_day_is_old(tmp_path: Path, day: date | None, old: bool) -> None:
    at = datetime(2025, 12, 1, 0, 0, 1).astimezone().timestamp()
    put(tmp_path, "a.mp3", at=at)
    (file,) = find([tmp_path], deep=False)

    assert is_old(file, day) is old


def test_a_file_is_whole_when_it_has_stayed_the_same_for_long_enough(tmp_path: Path) -> None:
    stability = Stability(60)

    def whole(now: float) -> list[str]:
        return names(stability.whole(find([tmp_path], deep=False), now))

    put(tmp_path, "a.mp3", at=1000)
    assert whole(0) == []
    assert whole(59) == []
    put(tmp_path, "a.mp3", at=1001, content="more sound")
    assert whole(61) == []
    assert whole(120) == []
    assert whole(121) == ["a.mp3"]


def test_a_file_that_was_away_begins_anew(tmp_path: Path) -> None:
    stability = Stability(60)
    path = put(tmp_path, "a.mp3")
    stability.whole(find([tmp_path], deep=False), 0)
    path.unlink()
    stability.whole(find([tmp_path], deep=False), 30)
    put(tmp_path, "a.mp3")

    assert stability.whole(find([tmp_path], deep=False), 70) == []
