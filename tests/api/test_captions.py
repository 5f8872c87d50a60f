"""Subtitles in the shape that is asked for."""

import io
import re
import zipfile
from dataclasses import replace

import pytest

from api.captions import PARAMETERS
from speech.formats import FORMATS, Shape, cues, srt
from tests.api.conftest import SEGMENT, TRANSCRIPT
from tests.recordings import PROJECT_DIR

README = (PROJECT_DIR / "README.md").read_text("utf-8")
#: Of less than 12 s, so that the shape alone decides.
LONG = replace(
    TRANSCRIPT,
    segments=(replace(SEGMENT, text=" abcde" * 40, start_seconds=0.0, end_seconds=12.0, words=()),),
)
NARROW = "max_chars=20&max_lines=1&max_cue_seconds=2&chars_per_second=10"
SHAPE = Shape(max_chars=20, max_lines=1, max_seconds=2, chars_per_second=10)


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitles_come_in_the_shape_that_is_asked_for(client, alice, jobs, name):
    url = f"/jobs/{jobs.completed(transcript=LONG)}/result?format={name}"
    usual, narrow = (client.get(u, headers=alice).text for u in (url, f"{url}&{NARROW}"))

    assert usual == FORMATS[name].render(LONG)
    lines = [line for line in narrow.splitlines() if line.startswith("abcde")]
    assert narrow.count("-->") == len(lines) == len(cues(LONG, SHAPE)) > usual.count("-->")
    assert all(len(line) <= 20 for line in lines)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_each_parameter_shapes_by_itself(client, alice, jobs, parameter):
    job_id = jobs.completed(transcript=LONG)
    value = {"max_chars": 20, "max_lines": 1, "max_cue_seconds": 2, "chars_per_second": 5}
    asked = {"format": "srt", parameter: value[parameter]}
    shaped = client.get(f"/jobs/{job_id}/result", params=asked, headers=alice).text

    shape = Shape(**{PARAMETERS[parameter]: value[parameter]})
    assert shaped == srt(LONG, shape)


def test_a_format_without_cues_has_none_to_shape(client, alice, jobs):
    url = f"/jobs/{jobs.completed()}/result?format=txt&max_lines=1"
    answer = client.get(url, headers=alice)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("#/max_lines", "no_cues")


@pytest.mark.parametrize(
    "asked",
    [
        "max_chars=9", "max_chars=201", "max_chars=x", "max_lines=0", "max_lines=11",
        "max_cue_seconds=0.5", "max_cue_seconds=61", "max_cue_seconds=nan", "max_cue_seconds=inf",
        "chars_per_second=4", "chars_per_second=101", "chars_per_second=nan",
        "max_chars=20&max_chars=30",
    ],
)  # fmt: skip
def test_a_shape_that_nobody_could_read_is_refused(client, alice, jobs, asked):
    url = f"/jobs/{jobs.completed()}/result?format=srt&{asked}"

    assert client.get(url, headers=alice).status_code == 422


def test_those_of_a_batch_are_shaped_alike(client, alice, jobs, make_batch):
    batch_id = make_batch("alice", jobs.completed(transcript=LONG))
    url = f"/batches/{batch_id}/result?format=srt&{NARROW}"
    archive = zipfile.ZipFile(io.BytesIO(client.get(url, headers=alice).content))
    (name,) = [name for name in archive.namelist() if name.endswith(".srt")]

    assert archive.read(name).decode() == srt(LONG, SHAPE)
    refused = client.get(f"/batches/{batch_id}/result?format=txt&{NARROW}", headers=alice)
    assert refused.status_code == 422


def test_the_readme_tells_each_with_its_default():
    table = README.split("### Subtitles", 1)[1].split("\n#", 1)[0]
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", table, re.MULTILINE))

    assert told == {name: f"{getattr(Shape(), PARAMETERS[name]):g}" for name in PARAMETERS}
