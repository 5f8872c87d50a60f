"""The page in a real browser, from signing in to the words beside their sound."""

import hashlib
import io
import os
import re
import uuid
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import func, select, update

import keys
from jobs.lifecycle import Failure
from models import ApiKey, Owner, TranscriptionJob, TranscriptionResult
from speech import peaks
from speech.transcript import Segment, Transcript, Word
from tests.browser.conftest import Site
from tests.recordings import SAMPLES, repeated, sample

pytestmark = pytest.mark.browser

DIGITS = "digits-en.wav"
WORDS = sample(DIGITS).text.split()
DOWNLOADS = {
    "Text": ".txt",
    "Subtitles (SRT)": ".srt",
    "Subtitles (WebVTT)": ".vtt",
    "Table (TSV)": ".tsv",
    "Paragraphs (Markdown)": ".md",
    "Everything (JSON)": ".json",
    "The recording": ".wav",
}
Picture = Callable[[Page, str], None]


def spoken(words: list[str], *, each: float = 0.5) -> Transcript:
    """Words that are said one after the other, a sentence of twenty in each segment."""
    segments = []
    for first in range(0, len(words), 20):
        said = tuple(
            Word(
                text=f" {word}",
                start_seconds=(first + at) * each,
                end_seconds=(first + at + 1) * each,
                probability=0.9,
            )
            for at, word in enumerate(words[first : first + 20])
        )
        segment = Segment(
            text="".join(word.text for word in said),
            start_seconds=said[0].start_seconds,
            end_seconds=said[-1].end_seconds,
            avg_logprob=-0.1,
            no_speech_prob=0.01,
            compression_ratio=1.0,
            temperature=0.0,
            words=said,
        )
        segments.append(segment)
    return Transcript(
        language="en",
        language_probability=0.9,
        audio_seconds=len(words) * each,
        segments=tuple(segments),
    )


def rows(page: Page) -> Locator:
    return page.get_by_role("list", name="Jobs").get_by_role("listitem")


def text(page: Page) -> Locator:
    return page.locator(".transcript p")


def lit(page: Page) -> str:
    """The word that is lit."""
    said: str = page.evaluate("[...(CSS.highlights.get('word') ?? [])].map(String).join()")
    return said


def now(page: Page) -> float:
    seconds: float = page.evaluate("document.querySelector('audio').currentTime")
    return seconds


def until(page: Page, true: str) -> None:
    # a function: the policy lets nobody evaluate a string
    page.wait_for_function(f"() => {true}")


def open_job(page: Page, job_id: uuid.UUID) -> None:
    page.evaluate(f"location.hash = '#/jobs/{job_id}'")


# From a file to its words


def test_a_file_is_sent_and_its_words_are_read_and_heard(site: Site, picture: Picture) -> None:
    site.stack.maintenance()
    site.stack.worker()
    page = site.look()
    picture(page, "sign-in")
    page.get_by_label("API key").fill(site.key())
    page.get_by_role("button", name="Sign in").click()
    page.locator("#files").set_input_files([SAMPLES / DIGITS, SAMPLES / "digits-es.wav"])
    expect(rows(page)).to_have_count(2)
    expect(rows(page).get_by_text("done", exact=True)).to_have_count(2)
    picture(page, "jobs")

    page.get_by_role("link", name=DIGITS).click()
    expect(text(page)).to_have_text(sample(DIGITS).text.strip())
    expect(page.locator(".wave > div")).to_have_count(1)
    # a plain click on a word plays it
    page.evaluate("document.querySelector('audio').muted = true")
    box = page.evaluate(
        "() => { const range = document.createRange();"
        " const node = document.querySelector('.transcript p').firstChild;"
        f" range.setStart(node, node.data.indexOf('{WORDS[4]}'));"
        f" range.setEnd(node, node.data.indexOf('{WORDS[4]}') + 2);"
        " const box = range.getBoundingClientRect(); return [box.left, box.top, box.height]; }"
    )
    page.mouse.click(box[0] + 4, box[1] + box[2] / 2)
    until(page, "CSS.highlights.get('word')?.size === 1")
    heard = lit(page)
    assert heard in WORDS[3:7]
    assert now(page) > 1
    until(
        page,
        f"[...CSS.highlights.get('word')].map(String).join() === '{WORDS[-1]}'"
        " || document.querySelector('audio').ended",
    )
    picture(page, "job")


def test_what_was_said_is_taken_away_in_every_format(site: Site) -> None:
    site.stack.maintenance()
    site.stack.worker()
    page = site.signed_in()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#files").set_input_files(SAMPLES / DIGITS)
    page.get_by_role("link", name=DIGITS).click()
    expect(text(page)).to_have_text(sample(DIGITS).text.strip())

    for label, extension in DOWNLOADS.items():
        page.get_by_text("Download").click()
        with page.expect_download() as download:
            page.get_by_role("link", name=label).click()
        assert download.value.suggested_filename == f"digits-en{extension}"
        if extension == ".wav":
            assert download.value.path().read_bytes() == (SAMPLES / DIGITS).read_bytes()
        page.get_by_text("Download").click()
    page.get_by_role("button", name="Copy text").click()
    expect(page.get_by_role("status").get_by_text("Copied.")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.split() == WORDS


def test_words_appear_while_the_job_runs(site: Site, tmp_path: Path, picture: Picture) -> None:
    site.stack.maintenance()
    site.stack.worker()
    page = site.signed_in()
    page.locator("#files").set_input_files(repeated(DIGITS, 20, tmp_path / "long.wav"))
    page.get_by_role("link", name="long.wav").click()
    expect(text(page).first).to_be_visible()
    running = page.get_by_role("progressbar", name="Progress").is_visible()
    picture(page, "running")

    expect(page.locator(".pill")).to_have_text("done")
    expect(page.get_by_role("progressbar")).to_have_count(0)
    assert running
    assert " ".join(text(page).all_text_contents()).split() == 20 * WORDS


def test_files_are_dropped_and_refused_ones_say_why(make_site: Callable[..., Site]) -> None:
    site = make_site(MAX_UPLOAD_SIZE_MB="1")
    page = site.signed_in()
    expect(page.get_by_text("Up to 1.0 MB")).to_be_visible()
    page.evaluate(
        "() => { const all = new DataTransfer();"
        " all.items.add(new File([new Uint8Array(2 ** 21)], 'large.wav'));"
        " all.items.add(new File(['sound'], 'small.wav'));"
        " document.querySelector('main').dispatchEvent("
        "   new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: all})); }"
    )
    expect(rows(page)).to_have_count(1)
    expect(rows(page).get_by_role("link")).to_have_text(["small.wav"])
    expect(page.get_by_text("1.0 MB are allowed")).to_be_visible()

    page.get_by_role("button", name="Do not send large.wav").click()
    expect(page.get_by_text("large.wav")).to_have_count(0)


def test_an_upload_goes_on_where_the_web_process_was_killed(site: Site, tmp_path: Path) -> None:
    """And becomes one job, with every byte."""
    recording = tmp_path / "long.wav"
    with recording.open("wb") as file:
        file.write(os.urandom(2**20))
        file.truncate(200 * 2**20)
    page = site.signed_in(strict=False)
    page.locator("#files").set_input_files(recording)
    until(page, "document.querySelector('.uploads progress')?.value > 2 ** 20")
    site.kill_web()
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    expect(rows(page).get_by_role("link")).to_have_text(["long.wav"])
    expect(page.get_by_role("progressbar", name="Upload of long.wav")).to_have_count(0)

    with site.stack.sessions() as session:
        job = session.scalars(select(TranscriptionJob)).one()
    with recording.open("rb") as file:
        assert job.upload_sha256 == hashlib.file_digest(file, "sha256").digest()


def test_an_address_is_fetched_where_that_is_allowed(make_site: Callable[..., Site]) -> None:
    site = make_site(SOURCE_URLS="true")
    page = site.signed_in()
    page.get_by_label("or give an address").fill("https://recordings.example.com/talk.mp3")
    page.get_by_role("button", name="Fetch").click()
    expect(rows(page).get_by_text("being fetched")).to_be_visible()
    rows(page).get_by_role("link").click()
    expect(page.get_by_text("The recording is being fetched: 0 B so far.")).to_be_visible()


def test_a_job_is_named_anew(site: Site) -> None:
    job_id = site.jobs.completed(client_metadata={"mine": [1]})
    page = site.signed_in()
    open_job(page, job_id)
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("What to call it").get_by_role("textbox").fill("Talk with Ms <Lovelace>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Talk with Ms <Lovelace>")
    assert site.jobs.row(job_id).client_metadata == {  # type: ignore[union-attr]
        "mine": [1],
        "title": "Talk with Ms <Lovelace>",
    }
    page.get_by_role("link", name="← All jobs").click()
    page.get_by_label("Search by name").fill("lovelace")
    expect(rows(page).get_by_role("link")).to_have_text(["Talk with Ms <Lovelace>"])


def test_a_job_is_cancelled_and_done_once_more_and_deleted(site: Site) -> None:
    page = site.signed_in()
    page.locator("#files").set_input_files(SAMPLES / DIGITS)
    rows(page).get_by_role("button", name=f"Cancel {DIGITS}").click()
    expect(rows(page).get_by_text("cancelled")).to_be_visible()

    page.get_by_role("link", name=DIGITS).click()
    page.get_by_role("button", name="Transcribe again …").click()
    page.get_by_label("Language").select_option("de")
    page.get_by_role("button", name="Transcribe", exact=True).click()
    expect(page.locator(".pill")).to_have_text("waiting")
    with site.stack.sessions() as session:
        found = session.scalars(
            select(TranscriptionJob.language).order_by(TranscriptionJob.created_at)
        ).all()
    assert found == [None, "de"]

    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(rows(page)).to_have_count(1)


def test_jobs_are_searched_and_filtered(site: Site) -> None:
    for name in ("Meeting Monday.mp3", "meeting friday.mp3", "Song.mp3"):
        site.jobs.submit(client_filename=name)
    site.jobs.completed(client_filename="Meeting done.mp3")
    page = site.signed_in()
    expect(rows(page)).to_have_count(4)
    page.get_by_label("Search by name").fill("MEETING")
    expect(rows(page)).to_have_count(3)
    page.get_by_label("State").select_option("completed")
    expect(rows(page).get_by_role("link")).to_have_text(["Meeting done.mp3"])
    page.get_by_label("Search by name").fill("nothing like that")
    expect(page.get_by_text("No job is like that.")).to_be_visible()


# Signing in


def test_a_wrong_key_is_told_and_a_good_one_stays_nowhere(site: Site) -> None:
    page = site.look(strict=False)
    page.get_by_label("API key").fill("stt_live_wrong-but-long-enough")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("That is not a good key.")
    key = site.key()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("No jobs yet.")).to_be_visible()

    kept = page.evaluate(
        "[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]"
    )
    assert kept == ["", "{}", "{}"]
    page.reload()
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()


def test_who_is_locked_out_is_signed_out(site: Site) -> None:
    page = site.signed_in(strict=False)
    with site.stack.sessions.begin() as session:
        mine = select(ApiKey).join(ApiKey.owner).where(Owner.name == "alice")
        keys.revoke(session, session.scalars(mine).one())
    page.get_by_label("Search by name").fill("anything")

    expect(page.get_by_label("API key")).to_be_visible()


def test_where_no_key_is_needed_nobody_is_asked_for_one(make_site: Callable[..., Site]) -> None:
    page = make_site(AUTH_REQUIRED="false").look()

    expect(page.get_by_text("No jobs yet.")).to_be_visible()


# What others said


def test_what_a_client_says_is_only_text(site: Site) -> None:
    """Neither a file's name nor what was said in it becomes part of the page."""
    bad = "<img src=x onerror=\"document.body.dataset.bad='yes'\">.wav"
    said = ["<script>document.body.dataset.bad=1</script>", "<b>bold</b>", "&amp;"]
    failure = Failure(code="engine_error", message="<img src=x onerror=alert(1)>", traceback="")
    job_id = site.jobs.completed("root", spoken(said), client_filename=bad)
    site.jobs.failed("root", failure, client_filename=bad)
    page = site.signed_in(site.operator())
    expect(rows(page).get_by_role("link").first).to_have_text(bad)
    open_job(page, job_id)
    expect(text(page)).to_have_text(" ".join(said))
    page.get_by_role("link", name="Operators").click()
    expect(page.get_by_text(failure.message)).to_be_visible()

    assert page.locator("main img, main script, main b").count() == 0
    assert page.evaluate("document.body.dataset.bad") is None


def test_nobody_sees_a_strangers_job(site: Site) -> None:
    job_id = site.jobs.completed("bob")
    page = site.signed_in(strict=False)
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    open_job(page, job_id)

    expect(page.get_by_role("heading", name="This job cannot be shown")).to_be_visible()


# Reading and hearing


@pytest.fixture
def long_job(site: Site) -> uuid.UUID:
    """Twenty thousand words, of a recording that is kept; it is silence."""
    words = [f"word{number % 997}" for number in range(20_000)]
    words[15_000] = "needle"
    recording = silence(60)
    job_id = site.jobs.completed("alice", spoken(words, each=0.003), upload_bytes=len(recording))
    site.jobs.keep(job_id, recording)
    return job_id


def silence(seconds: int) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000 * seconds))
    return target.getvalue()


def test_twenty_thousand_words_cost_no_more_than_a_few(site: Site, long_job: uuid.UUID) -> None:
    """To light a word changes next to nothing of the page, however long the text is."""
    page = site.signed_in()
    open_job(page, long_job)
    expect(page.locator(".paragraph").first).to_be_visible()
    nodes = page.evaluate("document.querySelectorAll('.transcript *').length")
    changes = page.evaluate(
        """async () => {
          let changes = 0;
          const watch = new MutationObserver((records) => { changes += records.length; });
          const text = document.querySelector('.transcript');
          watch.observe(text, {
            subtree: true, childList: true, attributes: true, characterData: true,
          });
          const audio = document.querySelector('audio');
          const seen = new Set();
          for (let at = 0; at < 50; at += 1) {
            const done = new Promise((resolve) => {
              audio.addEventListener('seeked', resolve, {once: true});
            });
            audio.currentTime = at * 0.003 + 0.001;
            await done;
            await new Promise(requestAnimationFrame);
            seen.add([...CSS.highlights.get('word')].map(String).join());
          }
          return [changes, seen.size];
        }"""
    )
    print(f"{nodes} elements; {changes[0]} changes for {changes[1]} words")

    assert nodes < 20_000 / 20
    assert changes[1] > 25
    assert changes[0] <= 4  # the paragraph's own mark


def test_what_is_looked_for_is_found(site: Site, long_job: uuid.UUID) -> None:
    page = site.signed_in()
    open_job(page, long_job)
    expect(text(page).first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("Needle")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    until(page, "[...CSS.highlights.get('match')][0].getBoundingClientRect().top < innerHeight")
    page.get_by_label("Find in the transcript").fill("word99")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"^2 of \d+$"))).to_be_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("CSS.highlights.get('found').size") == 0


def test_all_can_be_done_with_keys(site: Site, long_job: uuid.UUID, picture: Picture) -> None:
    page = site.signed_in()
    open_job(page, long_job)
    expect(text(page).first).to_be_visible()
    until(page, "document.querySelector('audio')?.readyState >= 1")
    audio = "document.querySelector('audio')"
    page.keyboard.press("l")
    page.keyboard.press("l")
    page.keyboard.press("j")
    until(page, f"{audio}.currentTime === 5")
    page.keyboard.press("]")
    until(page, f"{audio}.playbackRate === 1.25")
    page.keyboard.press("0")
    until(page, f"{audio}.playbackRate === 1")
    page.keyboard.press("ArrowRight")
    until(page, f"{audio}.currentTime > 5")
    page.keyboard.press("k")
    until(page, f"!{audio}.paused")
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("r")
    expect(page.get_by_role("button", name="Repeat")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press(" ")
    until(page, f"{audio}.paused")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    picture(page, "keys")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_following_yields_to_the_reader(site: Site, long_job: uuid.UUID) -> None:
    page = site.signed_in()
    open_job(page, long_job)
    until(page, "document.querySelector('audio')?.readyState >= 1")
    page.keyboard.press("k")
    until(page, "scrollY > 0")
    page.mouse.wheel(0, -5000)
    back = page.get_by_role("button", name="Back to current")
    expect(back).to_be_visible()
    back.click()
    expect(back).not_to_be_visible()
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "true")


def test_what_is_likely_to_be_wrong_is_shown(site: Site) -> None:
    words = [*WORDS, *["so", "he", "said"] * 12, *WORDS]
    page = site.signed_in()
    open_job(page, site.jobs.completed("alice", spoken(words)))
    page.get_by_role("button", name="Check 2").click()
    expect(page.get_by_text("1 of 2, 0:00: the same again and again")).to_be_visible()
    page.get_by_role("button", name="Check 2").click()
    expect(page.get_by_text("2 of 2, 0:10: the same again and again")).to_be_visible()
    assert page.evaluate("CSS.highlights.get('doubt').size") == 40


def test_the_waveform_outlives_the_recording(site: Site) -> None:
    job_id = site.jobs.completed("alice", spoken(WORDS))
    with site.stack.sessions.begin() as session:
        loud = peaks.of(np.ones(64_000, np.float32))
        session.execute(update(TranscriptionResult).values(peaks=loud))
        session.execute(update(TranscriptionJob).values(upload_deleted_at=func.now()))
    page = site.signed_in()
    open_job(page, job_id)

    expect(page.get_by_text("The recording is no longer kept.")).to_be_visible()
    expect(page.locator(".wave > div")).to_have_count(1)
    expect(text(page)).to_have_text(" ".join(WORDS))


# Operators


def test_operators_see_how_the_service_is_and_send_failed_jobs_round(
    site: Site, picture: Picture
) -> None:
    site.stack.maintenance()
    failed = site.jobs.failed("alice", client_filename="interview.mp3")
    site.jobs.keep(failed, b"sound")
    page = site.signed_in(site.operator())
    page.get_by_role("link", name="Operators").click()
    expect(page.get_by_role("region", name="Workers")).to_contain_text("maintenance")
    expect(page.get_by_role("link", name="interview.mp3")).to_be_visible()
    picture(page, "operators")
    page.get_by_role("button", name="Try interview.mp3 again").click()

    expect(page.get_by_text("None that nobody has dealt with.")).to_be_visible()
    assert site.jobs.row(failed).status == "pending"  # type: ignore[union-attr]


def test_who_is_no_operator_sees_nothing_of_that(site: Site) -> None:
    page = site.signed_in(strict=False)
    assert page.get_by_role("link", name="Operators").count() == 0
    page.evaluate("location.hash = '#/operators'")
    expect(page.get_by_text("This needs a key with the scope admin.")).to_be_visible()


# For everybody


def talk(site: Site) -> uuid.UUID:
    """A job that has all that there can be of one."""
    sound = silence(90)
    named = {"client_filename": "A talk.wav", "upload_bytes": len(sound)}
    job_id = site.jobs.completed("root", spoken(WORDS * 20), **named)
    site.jobs.keep(job_id, sound)
    with site.stack.sessions.begin() as session:
        tone = np.sin(np.linspace(0, 300, 80 * 16_000)) * np.sin(np.linspace(0, 9, 80 * 16_000))
        loud = peaks.of(tone.astype(np.float32))
        session.execute(update(TranscriptionResult).values(peaks=loud))
    return job_id


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_is_for_everybody(site: Site, theme: Any, width: int, picture: Picture) -> None:
    """No finding of axe, and nothing to scroll sideways, on any view."""
    job_id = talk(site)
    for make in (site.jobs.submit, site.jobs.processing, site.jobs.failed):
        make("root", client_filename=f"{make.__name__} with a long name, of many words.mp3")
    # axe sets styles of its own, which our policy forbids it
    options = {"color_scheme": theme, "viewport": {"width": width, "height": 800}}
    page = site.look(strict=False, **options)
    found = {"sign-in": findings(page)}
    page.get_by_label("API key").fill(site.operator())
    page.get_by_role("button", name="Sign in").click()
    expect(rows(page)).to_have_count(4)
    page.get_by_text("Options").click()
    found["list"] = findings(page)
    open_job(page, job_id)
    expect(text(page).first).to_be_visible()
    expect(page.locator(".wave > div")).to_have_count(1)
    found["job"] = findings(page)
    if (theme, width) in {("dark", 1100), ("light", 390)}:
        picture(page, "job-dark" if theme == "dark" else "job-phone")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    found["keys"] = findings(page)
    page.keyboard.press("Escape")
    page.evaluate("location.hash = '#/operators'")
    page.get_by_role("table").first.wait_for()
    found["operators"] = findings(page)

    assert {name: each for name, each in found.items() if each} == {}


def findings(page: Page) -> list[str]:
    page.wait_for_timeout(200)
    said: list[Any] = Axe().run(page).response["violations"]
    wide: bool = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [f"{each['id']}: {each['nodes'][0]['target']}" for each in said] + wide * ["too wide"]
