"""The page in a real browser: a recording, speech into the microphone, keys, search, sound, and files to save."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from demo.scores import word_errors
from tests.integration import services, serving
from tests.integration.services import Service
from tests.integration.serving import ROOT, Running

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is absent (ci/packages)"),
]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
REFERENCE = json.loads((ROOT / "demo" / "dialogue.json").read_text())
WAIT_MS = 60_000
SPOKEN_S = 11
KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def service(server: Running, streams: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    options = ("--endpoint", f"127.0.0.1:{server.grpc}", "--realtime-endpoint", f"127.0.0.1:{streams.grpc}")
    with services.started(folder, *options) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose microphone gets the beginning of the dialogue."""
    speech = tmp_path_factory.mktemp("microphone") / "speech.wav"
    samples, rate_hz = soundfile.read(DIALOGUE)
    soundfile.write(speech, samples[: SPOKEN_S * rate_hz], rate_hz)
    options = (
        "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={speech}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    )  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(options))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """The page, ready for input; an error of its script fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(service.url)
    expect(page.locator("#choose")).to_be_visible()
    yield page
    context.close()
    assert errors == []


def transcribe(page: Page, file: Path = DIALOGUE) -> None:
    page.set_input_files("#file", file)
    expect(page.locator("#transcript .word").first).to_be_visible(timeout=WAIT_MS)


def words(page: Page) -> list[str]:
    return page.locator("#transcript .word").all_inner_texts()


def test_transcribes_a_recording_with_speakers(page: Page) -> None:
    transcribe(page)
    assert word_errors(REFERENCE["text"], " ".join(words(page))) <= 10
    speakers = page.locator("#transcript .who b").all_inner_texts()
    assert set(speakers) == {"S1", "S2"}
    colours = page.eval_on_selector_all("#transcript .who b", "all => all.map(one => getComputedStyle(one).color)")
    assert len(set(colours)) == 2
    expect(page.locator("#status")).to_have_text(f"{len(words(page))} words")
    expect(page.locator("#jobs .title").first).to_have_text("dialogue.flac")


def test_takes_a_recording_before_it_knows_the_models(browser: Browser, service: Service) -> None:
    context = browser.new_context()
    page = context.new_page()
    held: list[Route] = []
    page.route("**/v2/page", lambda route: held.append(route))  # noqa: PLW0108 - Playwright sets attributes.
    page.goto(service.url)
    page.set_input_files("#file", DIALOGUE)
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    expect(page.locator("#transcript .word").first).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#problem")).to_be_empty()
    context.close()


def test_plays_from_a_word_and_lights_it(page: Page) -> None:
    transcribe(page)
    page.locator("#transcript .word").nth(100).click()
    start_s = page.evaluate("document.getElementById('player').currentTime")
    assert start_s > 20
    expect(page.locator(".word.lit")).to_have_count(1)
    page.wait_for_function("start => document.getElementById('player').currentTime > start + 0.5", arg=start_s)
    lit = page.evaluate("[...document.querySelectorAll('.word')].findIndex(one => one.classList.contains('lit'))")
    assert 99 <= lit < 110


def test_keys_move_and_play(page: Page) -> None:
    transcribe(page)
    page.focus("#transcript")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator(".word.here").inner_text() == words(page)[1]
    page.keyboard.press("Enter")
    page.wait_for_function("!document.getElementById('player').paused")
    page.keyboard.press("Space")
    page.wait_for_function("document.getElementById('player').paused")


def test_searches_words_in_sequence(page: Page) -> None:
    transcribe(page)
    page.fill("#search", "the Model")
    expect(page.locator("#found")).to_have_text("1 found")
    assert page.locator(".word.match").all_inner_texts() == ["the", "model"]
    page.fill("#search", "the")
    first = page.locator(".word.here").bounding_box()
    page.press("#search", "Enter")
    assert page.locator(".word.here").bounding_box() != first
    page.fill("#search", "zebra")
    expect(page.locator("#found")).to_have_text("0 found")


@pytest.mark.parametrize(
    ("name", "file", "start"),
    [
        ("txt", "dialogue.txt", "SPEAKER: S1\n"),
        ("srt", "dialogue.srt", "1\n00:00:00,"),
        ("vtt", "dialogue.vtt", "WEBVTT"),
        ("json-v2", "dialogue.json", "{"),
    ],
)
def test_saves_every_format(page: Page, name: str, file: str, start: str) -> None:
    transcribe(page)
    with page.expect_download() as caught:
        page.click(f"[data-format={name}]")
    assert caught.value.suggested_filename == file
    assert Path(caught.value.path()).read_text().startswith(start)


def test_vocabulary_writes_names_as_given(page: Page) -> None:
    page.click("summary")
    page.fill("#vocabulary", "# names\nSarah\nLondon Office = london\n")
    transcribe(page)
    assert "Sarah" in words(page)
    assert "London Office" in " ".join(words(page))


def test_opens_and_deletes_an_earlier_recording(page: Page, service: Service) -> None:
    transcribe(page)
    page.reload()
    page.click("#jobs .title >> nth=0")
    expect(page.locator("#transcript .word").first).to_be_visible()
    assert page.evaluate("document.getElementById('player').src").startswith("blob:")
    before = len(httpx.get(f"{service.url}/v2/jobs").json()["jobs"])
    page.click("#jobs button:text('Delete') >> nth=0")
    expect(page.locator("#jobs li")).to_have_count(before - 1)


def test_refuses_what_is_no_recording(page: Page, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("no audio")
    page.set_input_files("#file", text)
    expect(page.locator("#problem")).to_contain_text("It cannot be decoded as a recording", timeout=WAIT_MS)
    transcribe(page)
    expect(page.locator("#problem")).to_be_empty()


def test_shows_the_progress_of_a_job(page: Page, tmp_path: Path) -> None:
    """The page keeps every text of its status, as the last ones may come within a moment."""
    long = tmp_path / "long.flac"
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    soundfile.write(long, np.tile(samples, 20), rate_hz)
    page.evaluate(
        "() => { window.texts = []; const line = document.getElementById('status');"
        " new MutationObserver(() => window.texts.push(line.textContent)).observe(line, { childList: true }); }"
    )
    page.set_input_files("#file", long)
    page.wait_for_function("() => texts.some((text) => /^Transcribing: [0-9]+ %$/.test(text))", timeout=WAIT_MS)
    assert page.evaluate("document.getElementById('progress').value") > 0
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")


def test_cancels(page: Page, tmp_path: Path) -> None:
    long = tmp_path / "long.flac"
    samples, rate_hz = soundfile.read(DIALOGUE, dtype="int16")
    soundfile.write(long, np.tile(samples, 20), rate_hz)
    page.set_input_files("#file", long)
    expect(page.locator("#status")).to_contain_text("Transcribing", timeout=WAIT_MS)
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")
    expect(page.locator("#work")).to_be_hidden()


def test_speaks_into_the_microphone(page: Page) -> None:
    page.click("#speak")
    expect(page.locator("#transcript")).to_contain_text("speech model pass the tests", timeout=WAIT_MS)
    page.wait_for_timeout(SPOKEN_S * 1000 - 4000)
    page.click("#speak")
    expect(page.locator("#again")).to_be_visible(timeout=WAIT_MS)
    spoken = " ".join(turn["text"] for turn in REFERENCE["turns"][:2])
    assert word_errors(spoken, " ".join(words(page))) <= 4
    assert page.locator("#transcript .partial").count() == 0
    page.click("#again button")
    expect(page.locator("#formats")).to_be_visible(timeout=WAIT_MS)
    assert word_errors(spoken, " ".join(words(page))) <= 4


def test_theme_follows_the_system_and_the_button(browser: Browser, service: Service) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(service.url)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    context.close()


def test_fits_a_phone(browser: Browser, service: Service) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(service.url)
    transcribe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_requires_the_key(browser: Browser, server: Running, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice {KEY}\n")
    options = ("--endpoint", f"127.0.0.1:{server.grpc}", "--api-keys", str(keys))
    with services.started(tmp_path / "service", *options) as running:
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.url)
        expect(page.locator("#access")).to_be_visible()
        expect(page.locator("#input")).to_be_hidden()
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        expect(page.locator("#choose")).to_be_visible()
        expect(page.locator("#speak")).to_be_hidden()
        transcribe(page)
        context.close()


def test_offers_only_the_models_that_are_served(browser: Browser, reference_engines: Path, tmp_path: Path) -> None:
    with serving.started(reference_engines, tmp_path, SM_OPERATING_POINT="standard") as server:
        serving.wait_ready(server)
        with services.started(tmp_path / "service", "--endpoint", f"127.0.0.1:{server.grpc}") as running:
            page = browser.new_page()
            page.goto(running.url)
            expect(page.locator("#choose")).to_be_visible()
            assert page.locator("#point option").all_inner_texts() == ["standard"]
            transcribe(page)
            page.close()


def watched(browser: Browser, **options: Any) -> tuple[Page, list[str], list[str]]:
    """Return a page, the hosts that it calls, and what its scripts report as errors."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT_MS)
    hosts: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: hosts.append(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    return page, hosts, errors


def test_api_page_describes_the_api_and_calls_it_with_a_key(browser: Browser, server: Running, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    options = ("--endpoint", f"127.0.0.1:{server.grpc}", "--api-keys", str(tmp_path / "keys"))
    with services.started(tmp_path / "service", *options) as running:
        page, hosts, errors = watched(browser)
        page.goto(f"{running.url}/docs")
        expect(page.locator(".info .title")).to_contain_text("Voxwright")
        described = httpx.get(f"{running.url}/openapi.json").json()
        assert described["security"] == [{"key": []}]
        shown = page.locator(".opblock-summary-path").all_inner_texts()
        assert {path.replace("\u200b", "") for path in shown} == described["paths"].keys()
        page.click("button.authorize")
        page.fill("input[aria-label='auth-bearer-value']", KEY)
        page.click(".modal-btn.authorize")
        page.click(".btn-done")
        page.click("#operations-jobs-list_v2_jobs_get")
        page.click(".try-out__btn")
        page.click("button.execute")
        expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        expect(page.locator(".live-responses-table .microlight").first).to_contain_text('"jobs"')
        page.context.close()
        assert set(hosts) == {f"127.0.0.1:{running.port}"}
        assert errors == []


def test_api_page_fits_a_phone(browser: Browser, service: Service) -> None:
    page, hosts, errors = watched(browser, viewport={"width": 360, "height": 740})
    page.goto(f"{service.url}/docs")
    expect(page.locator("#operations-jobs-list_v2_jobs_get")).to_be_visible()
    # Without keys there is nothing to authorize with.
    expect(page.locator("button.authorize")).to_have_count(0)
    page.click("#operations-jobs-list_v2_jobs_get")
    expect(page.locator(".try-out__btn")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()
    assert set(hosts) == {f"127.0.0.1:{service.port}"}
    assert errors == []


def test_loads_nothing_from_elsewhere(service: Service) -> None:
    answer = httpx.get(service.url)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in ("page.js", "page.css", "index.html", "microphone.js", "docs.html", "docs.css", "docs.js"):
        text = httpx.get(f"{service.url}/page/{name}").text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
    assert httpx.get(f"{service.url}/page/../app.py").status_code == 404
