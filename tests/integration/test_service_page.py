"""The page in a real browser: a recording, speech into the microphone, keys, search, sound, and files to save."""

import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Dialog, Page, Route, WebSocketRoute, expect, sync_playwright

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


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose servers are away: for tests in which the browser answers the requests of jobs and streams."""
    options = ("--endpoint", "127.0.0.1:9", "--realtime-endpoint", "127.0.0.1:9", "--largest-upload", "2")
    running = services.start(tmp_path_factory.mktemp("lone"), *options)
    try:
        services.wait_ready(running, "/live")
        yield running
    finally:
        running.kill()


@pytest.fixture
def blank(browser: Browser, lone: Service) -> Iterator[Page]:
    """A page before it is opened, of which a test can hold or answer the requests; an exception fails the test."""
    context = browser.new_context(base_url=lone.url, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def word(content: str, start_s: float) -> dict[str, Any]:
    alternatives = [{"content": content, "confidence": 0.9}]
    return {"type": "word", "start_time": start_s, "end_time": start_s + 0.3, "alternatives": alternatives}


TRANSCRIPT = {"results": [word(content, start_s) for start_s, content in enumerate(("hello", "wide", "world"))]}


def job(name: str, status: str = "done", **more: Any) -> dict[str, Any]:
    """Return a job as lists have it; its name is its id."""
    return {"id": name, "data_name": name, "status": status, "created_at": CREATED, "duration": 69.0, **more}


CREATED = "2026-11-27T10:00:00.123Z"


def answer_jobs(page: Page, jobs: list[dict[str, Any]]) -> list[str]:
    """Answer the requests of jobs in the browser, and return them as they come; a recording becomes the job `new`."""
    requests: list[str] = []

    def answer(route: Route) -> None:
        method, url = route.request.method, urlsplit(route.request.url)
        name, _, part = url.path.removeprefix("/v2/jobs").strip("/").partition("/")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        requests.append(f"{method} {name or 'jobs'}{'/' if part else ''}{part}")
        found = next((each for each in jobs if each["id"] == name), None)
        if method == "POST":
            jobs.insert(0, job("new", "running"))
            route.fulfill(status=201, json={"id": "new"})
        elif not name:
            older = [each for each in jobs if each["created_at"] < query.get("created_before", "9")]
            route.fulfill(json={"jobs": older[: int(query["limit"])]})
        elif found is None:
            route.fulfill(status=404, json={"detail": f"there is no job {name}"})
        elif method == "DELETE":
            jobs.remove(found)
            route.fulfill(json={"job": found})
        elif part == "data":
            route.fulfill(body=DIALOGUE.read_bytes())
        else:
            route.fulfill(json=TRANSCRIPT if part else {"job": found})

    page.route("**/v2/jobs**", answer)
    page.route("**/v2/jobs/**", answer)
    return requests


def answer_speech(page: Page, on_end: Callable[[WebSocketRoute], object]) -> list[WebSocketRoute]:
    """Answer streams in the browser: two words, then what a test does at the end; return the connections."""
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        sockets.append(socket)

        def receive(message: str | bytes) -> None:
            name = json.loads(message)["message"] if isinstance(message, str) else ""
            if name == "StartRecognition":
                socket.send('{"message": "RecognitionStarted", "id": "x"}')
                results = TRANSCRIPT["results"][:2]
                socket.send(json.dumps({"message": "AddTranscript", "metadata": {}, "results": results}))
            elif name == "EndOfStream":
                on_end(socket)

        socket.on_message(receive)

    page.route_web_socket("**/v2/en*", connect)
    return sockets


def until(page: Page, condition: Callable[[], object]) -> None:
    """Wait for something that the page caused outside of it."""
    for _ in range(WAIT_MS // 20):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not come")


def drop(page: Page, *names: str) -> None:
    page.evaluate(
        "(names) => { const data = new DataTransfer(); names.forEach((name) => data.items.add(new File(['x'], name)));"
        " document.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: data })); }",
        names,
    )


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
    expect(page.locator("#player")).to_have_attribute("src", re.compile("^blob:"))
    before = len(httpx.get(f"{service.url}/v2/jobs").json()["jobs"])
    page.click("#jobs button:text('Delete') >> nth=0")
    page.click("#jobs button:text('Delete?')")
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


def end_in_order(socket: WebSocketRoute) -> None:
    socket.send('{"message": "EndOfTranscript"}')


def end_never(_: WebSocketRoute) -> None:
    """Leave the page without an answer."""


def close(socket: WebSocketRoute) -> None:
    socket.close(code=1011)


def refuse(socket: WebSocketRoute) -> None:
    socket.send('{"message": "Error", "reason": "the session has lasted 60 s, the limit of this service"}')


CLOSED = "The service closed the connection."
LIMIT = "The session has lasted 60 s, the limit of this service."


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [(close, end_never, CLOSED), (refuse, end_never, LIMIT), (None, close, CLOSED), (None, end_in_order, "")],
)
def test_keeps_speech_however_the_connection_ends(
    blank: Page, before: Callable[[WebSocketRoute], None] | None, after: Callable[[WebSocketRoute], None], problem: str
) -> None:
    """The connection ends within speech or after Stop."""
    sockets = answer_speech(blank, after)
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Speak now")
    blank.wait_for_timeout(500)
    if before is None:
        blank.click("#speak")
    else:
        before(sockets[0])
    expect(blank.locator("#again")).to_be_visible()
    expect(blank.locator("#problem")).to_have_text(problem)
    expect(blank.locator("#player")).to_be_visible()
    expect(blank.locator("#speak")).to_have_text("Speak")
    assert words(blank) == ["hello", "wide"]
    blank.wait_for_function("() => document.getElementById('player').duration > 0.2")


def test_keeps_speech_that_cannot_be_sent(blank: Page) -> None:
    answer_speech(blank, end_in_order)
    blank.route("**/v2/jobs", lambda route: route.abort())
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Speak now")
    blank.wait_for_timeout(300)
    blank.click("#speak")
    blank.click("#again button")
    expect(blank.locator("#problem")).to_have_text("The service cannot be reached.")
    expect(blank.locator("#again")).to_be_visible()
    assert words(blank) == ["hello", "wide"]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_waits_a_limited_time_for_the_last_words(blank: Page, is_cancelled: bool) -> None:
    answer_speech(blank, end_never)
    blank.clock.install()
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Speak now")
    blank.wait_for_timeout(300)
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Waiting for the last words")
    expect(blank.locator("#speak")).to_be_disabled()
    if is_cancelled:
        blank.click("#cancel")
    else:
        blank.clock.fast_forward(31_000)
        expect(blank.locator("#problem")).to_have_text("The service sent no last words within 30 s.")
    expect(blank.locator("#again")).to_be_visible()
    expect(blank.locator("#work")).to_be_hidden()
    expect(blank.locator("#speak")).to_be_enabled()


def test_cancels_the_question_for_the_microphone(blank: Page) -> None:
    blank.add_init_script("navigator.mediaDevices.getUserMedia = () => new Promise((give) => { window.give = give; })")
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Waiting for the microphone")
    blank.click("#speak")
    expect(blank.locator("#problem")).to_contain_text("The page is busy with Speech")
    blank.click("#cancel")
    expect(blank.locator("#status")).to_have_text("Cancelled")
    expect(blank.locator("#work")).to_be_hidden()
    expect(blank.locator("#problem")).to_be_empty()
    # The microphone that is given afterwards is released.
    blank.evaluate("give({ getTracks: () => [{ stop: () => { window.released = true; } }] })")
    assert blank.evaluate("window.released")


def test_reports_a_microphone_that_the_browser_pauses(blank: Page) -> None:
    answer_speech(blank, end_in_order)
    blank.add_init_script(
        "window.AudioContext = class extends AudioContext { isPaused = true;"
        " get state() { return this.isPaused ? 'suspended' : super.state; }"
        " resume() { this.isPaused = false; this.dispatchEvent(new Event('statechange')); return super.resume(); } }"
    )
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("The browser pauses the microphone. Click the page")
    blank.mouse.click(5, 5)
    expect(blank.locator("#status")).to_have_text("Speak now")


def test_closes_the_microphone_once(blank: Page) -> None:
    """In Firefox a context that is about to close is not `closed` yet, and a second `close` fails."""
    answer_speech(blank, end_in_order)
    blank.add_init_script(
        "window.closed_count = 0; const close = AudioContext.prototype.close;"
        " AudioContext.prototype.close = function () { window.closed_count += 1; return close.call(this); };"
        " Object.defineProperty(AudioContext.prototype, 'state', { get: () => 'running' });"
    )
    blank.goto("/")
    blank.click("#speak")
    expect(blank.locator("#status")).to_have_text("Speak now")
    blank.wait_for_timeout(300)
    blank.click("#speak")
    expect(blank.locator("#again")).to_be_visible()
    assert blank.evaluate("window.closed_count") == 1


def test_pauses_an_earlier_recording_before_speech(blank: Page) -> None:
    answer_jobs(blank, [job("meeting.flac")])
    answer_speech(blank, end_in_order)
    blank.goto("/")
    blank.click("#jobs .title")
    blank.wait_for_function("() => document.getElementById('player').duration > 1")
    blank.locator("#transcript .word").nth(1).click()
    blank.wait_for_function("() => !document.getElementById('player').paused")
    blank.click("#speak")
    assert blank.evaluate("document.getElementById('player').paused")


def test_shows_a_transcript_before_its_sound(blank: Page) -> None:
    answer_jobs(blank, [job("a.flac"), job("b.flac")])
    blank.route("**/a.flac/data", lambda _: None)
    blank.goto("/")
    blank.click("#jobs .title >> nth=0")
    expect(blank.locator("#status")).to_have_text("Loading the sound")
    assert words(blank) == ["hello", "wide", "world"]
    blank.click("#cancel")
    expect(blank.locator("#work")).to_be_hidden()
    expect(blank.locator("#result")).to_be_visible()
    # Another one does not wait for the sound of the first.
    blank.click("#jobs .title >> nth=0")
    expect(blank.locator("#status")).to_have_text("Loading the sound")
    blank.click("#jobs .title >> nth=1")
    expect(blank.locator("#name")).to_have_text("b.flac")
    expect(blank.locator("#player")).to_be_visible()


def test_retries_the_requests_of_a_job(blank: Page) -> None:
    jobs: list[dict[str, Any]] = []
    requests = answer_jobs(blank, jobs)
    blank.goto("/")
    polls: list[float] = []
    answers: list[Callable[[Route], None]] = [
        lambda route: route.abort(),
        lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, json={"detail": "the database is away"}),
        lambda route: route.fulfill(json={"job": job("new", "running")}),
    ]

    def poll(route: Route) -> None:
        polls.append(time.monotonic())
        if len(polls) <= len(answers):
            answers[len(polls) - 1](route)
            return
        jobs[0]["status"] = "done"
        route.fallback()

    blank.route("**/v2/jobs/new?wait=*", poll)
    drop(blank, "a.wav")
    expect(blank.locator("#status")).to_have_text("The service cannot be reached. Trying again")
    expect(blank.locator("#status")).to_have_text("The database is away. Trying again")
    expect(blank.locator("#status")).to_have_text("3 words")
    expect(blank.locator("#problem")).to_be_empty()
    pauses_s = [later - sooner for sooner, later in itertools.pairwise(polls)]
    # After the failure, as Retry-After has it, and between two answers.
    assert [round(pause_s) >= least_s for pause_s, least_s in zip(pauses_s, (1, 2, 1), strict=True)] == [True] * 3
    assert requests.count("POST jobs") == 1


def test_begins_when_the_service_returns(blank: Page) -> None:
    blank.route("**/v2/page", lambda route: route.abort(), times=1)
    blank.goto("/")
    expect(blank.locator("#status")).to_have_text("The service cannot be reached. Trying again")
    expect(blank.locator("#choose")).to_be_visible()
    expect(blank.locator("#status")).to_be_empty()


def test_deletes_a_job_whose_upload_was_cancelled_when_it_was_sent(blank: Page) -> None:
    requests = answer_jobs(blank, [])
    held: list[Route] = []
    blank.route("**/v2/jobs", lambda route: held.append(route))  # noqa: PLW0108 - Playwright sets attributes.
    # The browser reports no progress of a request that is held.
    blank.add_init_script(
        "const send = XMLHttpRequest.prototype.send; XMLHttpRequest.prototype.send = function (body) {"
        " this.upload.onprogress({ loaded: 1, total: 1 }); return send.call(this, body); }"
    )
    blank.goto("/")
    drop(blank, "a.wav")
    expect(blank.locator("#status")).to_have_text("Sending: 100 %")
    until(blank, lambda: held)
    blank.click("#cancel")
    expect(blank.locator("#status")).to_have_text("Cancelling")
    held[0].fallback()
    expect(blank.locator("#status")).to_have_text("Cancelled")
    assert "DELETE new" in requests


def test_refuses_a_file_above_the_limit_before_it_is_sent(blank: Page, tmp_path: Path) -> None:
    requests = answer_jobs(blank, [])
    (tmp_path / "large.wav").write_bytes(bytes(2_500_000))
    blank.goto("/")
    blank.set_input_files("#file", tmp_path / "large.wav")
    expect(blank.locator("#problem")).to_have_text("This service takes at most 2 MB, and large.wav has 2.5 MB.")
    assert "POST jobs" not in requests


def test_leaving_the_page_within_an_upload_is_a_question(blank: Page) -> None:
    answer_jobs(blank, [])
    blank.route("**/v2/jobs", lambda route: None if route.request.method == "POST" else route.fallback())
    kinds: list[str] = []

    def accept(dialog: Dialog) -> None:
        kinds.append(dialog.type)
        dialog.accept()

    blank.on("dialog", accept)
    blank.goto("/")
    blank.mouse.click(5, 5)
    drop(blank, "a.wav")
    expect(blank.locator("#status")).to_have_text("Sending: 0 %")
    blank.reload()
    assert kinds == ["beforeunload"]


def names(page: Page) -> list[str]:
    return page.locator("#jobs .title").all_inner_texts()


def focused(page: Page) -> str:
    """Return the name of the element that has the focus."""
    found = "document.activeElement"
    return str(page.evaluate(f"{found}.getAttribute('aria-label') ?? {found}.textContent"))


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("pause_ms", [60, 200])
def test_double_click_on_delete_deletes_nothing(blank: Page, width: int, pause_ms: int) -> None:
    requests = answer_jobs(blank, [job("a.flac"), job("b.flac", "running"), job("c.flac")])
    blank.set_viewport_size({"width": width, "height": 900})
    blank.goto("/")
    for place in (0, 1):
        for share in (0.05, 0.95):
            box = blank.locator("#jobs button:text('Delete')").nth(place).bounding_box()
            assert box is not None
            blank.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            for count in (1, 2):
                blank.mouse.down(click_count=count)
                blank.mouse.up(click_count=count)
                blank.wait_for_timeout(pause_ms)
            if blank.locator("#jobs button:text('Keep')").count():
                blank.click("#jobs button:text('Keep')")
    assert names(blank) == ["a.flac", "b.flac", "c.flac"]
    assert not any(request.startswith("DELETE") for request in requests)


def test_deletes_one_line_after_a_question(blank: Page) -> None:
    jobs = [job("a.flac"), job("b.flac"), job("c.flac")]
    requests = answer_jobs(blank, jobs)
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "DELETE":
            held.append(route)
        else:
            route.fallback()

    blank.route("**/v2/jobs/b.flac*", hold)
    blank.goto("/")
    blank.get_by_role("button", name="Delete b.flac").press("Enter")
    assert focused(blank) == "Keep b.flac"
    blank.keyboard.press("Enter")
    assert focused(blank) == "Delete b.flac"
    blank.keyboard.press("Enter")
    blank.click("#jobs button:text('Delete?')")
    expect(blank.locator("#jobs button:text('Delete?')")).to_be_disabled()
    until(blank, lambda: held)
    # A list that comes meanwhile keeps the line; a failure brings its button back.
    held.pop().fulfill(status=503, json={"detail": "the database does not answer"})
    expect(blank.locator("#problem")).to_have_text("The database does not answer.")
    blank.get_by_role("button", name="Delete b.flac").press("Enter")
    blank.click("#jobs button:text('Delete?')")
    until(blank, lambda: held)
    held.pop().fallback()
    expect(blank.locator("#jobs li")).to_have_count(2)
    assert names(blank) == ["a.flac", "c.flac"]
    assert focused(blank) == "c.flac"
    assert requests.count("DELETE b.flac") == 1


def test_closes_the_shown_recording_when_it_is_deleted(blank: Page) -> None:
    answer_jobs(blank, [job("a.flac"), job("b.flac")])
    blank.goto("/")
    blank.click("#jobs .title >> nth=0")
    expect(blank.locator("#player")).to_be_visible()
    blank.locator("#transcript .word").nth(1).click()
    blank.get_by_role("button", name="Delete a.flac").click()
    blank.click("#jobs button:text('Delete?')")
    expect(blank.locator("#result")).to_be_hidden()
    expect(blank.locator("#status")).to_be_empty()
    assert blank.evaluate("document.getElementById('player').paused")


def test_follows_the_jobs_of_the_list(blank: Page) -> None:
    jobs = [job("a.flac", "running", progress=0.4), job("b.flac", "running"), job("c.flac")]
    answer_jobs(blank, jobs)
    blank.goto("/")
    expect(blank.locator("#jobs .note")).to_have_text(["running, 40 %", "running", "1:09"])
    # The question of another line stays open.
    blank.get_by_role("button", name="Delete c.flac").click()
    jobs[0] = job("a.flac")
    jobs[1] = job("b.flac", "rejected", errors=[{"message": "it is empty"}])
    expect(blank.locator("#jobs .note")).to_have_text(["1:09", "rejected", "1:09"])
    expect(blank.locator("#jobs .title").first).to_be_enabled()
    expect(blank.locator("#jobs .reason").nth(1)).to_have_text("It is empty.")
    assert focused(blank) == "Keep c.flac"


def test_lists_a_recording_that_was_rejected(blank: Page) -> None:
    jobs: list[dict[str, Any]] = []
    answer_jobs(blank, jobs)
    blank.goto("/")
    drop(blank, "a.wav")
    until(blank, lambda: jobs)
    jobs[0] = job("new", "rejected", errors=[{"message": "it is empty"}])
    expect(blank.locator("#problem")).to_have_text("It is empty.")
    expect(blank.locator("#jobs .reason")).to_have_text("It is empty.")


def test_reaches_every_recording_of_the_list(blank: Page) -> None:
    """The service lists at most 100 at once."""
    times = [f"2026-11-27T10:{59 - number // 2:02}:{59 - number // 3:02}.000Z" for number in range(110)]
    jobs = [job(f"{number}.flac", created_at=created) for number, created in enumerate(times)]
    answer_jobs(blank, jobs)
    blank.goto("/")
    for shown in (20, 40, 60, 80, 100, 110):
        expect(blank.locator("#jobs li")).to_have_count(shown)
        if shown < len(jobs):
            blank.click("#more")
            expect(blank.locator("#jobs .title").nth(shown)).to_be_focused()
    expect(blank.locator("#more")).to_be_hidden()
    assert names(blank) == [each["id"] for each in jobs]


def test_reports_sound_that_the_browser_cannot_play(blank: Page) -> None:
    answer_jobs(blank, [job("a.aiff")])
    blank.route("**/a.aiff/data", lambda route: route.fulfill(body=b"FORM"))
    blank.goto("/")
    blank.click("#jobs .title")
    expect(blank.locator("#silent")).to_be_visible()
    expect(blank.locator("#player")).to_be_hidden()
    blank.locator("#transcript .word").nth(1).click()
    blank.keyboard.press("Space")
    expect(blank.locator(".word.here")).to_have_text("wide")
    expect(blank.locator("#problem")).to_be_empty()


def test_lights_words_in_one_loop(blank: Page) -> None:
    answer_jobs(blank, [job("a.flac")])
    blank.add_init_script(
        "window.loops = 0; const real = requestAnimationFrame; window.requestAnimationFrame = (step) =>"
        " real((time) => { if (step.name === 'lightWords') window.loops += 1; step(time); });"
    )
    blank.goto("/")
    blank.click("#jobs .title")
    expect(blank.locator("#player")).to_be_visible()
    for place in [0, 1, 2] * 4:
        blank.locator("#transcript .word").nth(place).click()
    blank.wait_for_function("() => document.getElementById('player').currentTime > 2.2")
    frames = "new Promise((ready) => requestAnimationFrame(() => requestAnimationFrame(() => ready(window.loops))))"
    before = blank.evaluate(frames)
    assert blank.evaluate(frames) - before <= 4


def test_serves_keyboards_and_screen_readers(blank: Page) -> None:
    answer_jobs(blank, [job("a.flac")])
    blank.goto("/")
    blank.get_by_role("button", name="a.flac", exact=True).press("Enter")
    expect(blank.locator("#transcript")).to_be_focused()
    expect(blank.get_by_label("Recording", exact=True).locator("visible=true")).not_to_have_count(0)
    blank.keyboard.press("ArrowRight")
    expect(blank.locator("[aria-current=true]")).to_have_text("wide")
    for keys in ("Alt+ArrowRight", "Control+ArrowRight", "Shift+ArrowRight"):
        blank.keyboard.press(keys)
    assert blank.locator("[aria-current=true]").all_inner_texts() == ["wide"]


def test_names_the_files_that_it_does_not_take(blank: Page) -> None:
    jobs: list[dict[str, Any]] = []
    requests = answer_jobs(blank, jobs)
    blank.goto("/")
    drop(blank, "one.wav", "two.wav", "three.wav")
    expect(blank.locator("#problem")).to_have_text(
        "The page takes one recording at a time. Not sent: two.wav, three.wav."
    )
    until(blank, lambda: jobs)
    jobs[0]["status"] = "done"
    expect(blank.locator("#status")).to_have_text("3 words")
    assert requests.count("POST jobs") == 1


def test_leaves_dragged_text_to_the_browser(blank: Page) -> None:
    blank.goto("/")
    script = (
        "(kind) => { const data = new DataTransfer();"
        " if (kind === 'Files') data.items.add(new File(['x'], 'a.wav')); else data.setData(kind, 'Sarah');"
        " const event = new DragEvent('dragover', { bubbles: true, cancelable: true, dataTransfer: data });"
        " document.getElementById('vocabulary').dispatchEvent(event); return event.defaultPrevented; }"
    )
    assert blank.evaluate(script, "Files")
    assert not blank.evaluate(script, "text/plain")


def test_streams_only_service_takes_no_files(blank: Page) -> None:
    settings = {
        "client": "", "languages": ["en"], "usual_language": "en", "operating_points": ["standard"],
        "recordings": False, "streams": True, "largest_upload_bytes": 2_000_000,
    }  # fmt: skip
    blank.route("**/v2/page", lambda route: route.fulfill(json=settings))
    blank.goto("/")
    expect(blank.locator("#invitation")).to_have_text("Speak into the microphone")
    drop(blank, "a.wav")
    expect(blank.locator("#problem")).to_have_text("This service takes no recordings; speak into the microphone.")


WRONG_KEYS = {
    "0123456789abcdef—0123": 'A key has no character such as "—"; copy it again.',
    "wrongwrongwrongwrong": "This is not a key of this service; check it and enter it again.",
}


def test_wrong_keys_do_not_lock_the_page(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    options = ("--endpoint", "127.0.0.1:9", "--api-keys", str(tmp_path / "keys"))
    running = services.start(tmp_path / "service", *options)
    try:
        services.wait_ready(running, "/live")
        page = browser.new_page()
        page.goto(running.url)
        expect(page.locator("#problem")).to_have_text("Enter a key of this service.")
        for key, problem in WRONG_KEYS.items():
            page.fill("#key", key)
            page.press("#key", "Enter")
            expect(page.locator("#problem")).to_have_text(problem)
            assert page.evaluate("sessionStorage.getItem('key')") is None
        # Stored by an earlier release.
        page.evaluate("sessionStorage.setItem('key', '0123456789abcdef—0123')")
        page.reload()
        expect(page.locator("#access")).to_be_visible()
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        expect(page.locator("#choose")).to_be_visible()
        page.reload()
        expect(page.locator("#choose")).to_be_visible()
        page.close()
    finally:
        running.kill()


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
