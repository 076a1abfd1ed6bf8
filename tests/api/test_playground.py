"""The playground page, in a real headless Chromium against a small server that plays a tone.

Skipped where chromium or its driver is missing (Debian: `apt-get install chromium
chromium-driver`). The server speaks the service's wire: the same routes, headers and errors.
"""

import ast
import asyncio
import base64
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.checkpoints import VOICES as VOICES_DATA
from tests.checkpoints import write_quick_checkpoint
from tests.conftest import KEY, Server, StartServer

from qwen_tts_service.api import playground
from qwen_tts_service.fields import SpeechBody
from qwen_tts_service.validation import from_validation

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.by import By  # noqa: E402 - after the skip
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"
)

RATE_HZ = 24000
CHUNK_SAMPLES = 1920
PLAIN_HOST = "tts.example"  # not localhost, so that plain http counts as insecure
VOICES = [
    {"id": "serena", "name": "Serena", "gender": "female", "language": "chinese"},
    {"id": "ryan", "name": "Ryan", "gender": "male", "language": "english"},
]
HEADERS = {
    "X-Request-Id": "0123456789abcdef",
    "X-Seed": "42",
    "X-Model": "Qwen3-TTS-12Hz-1.7B-CustomVoice",
    "X-Voice": "serena",
    "X-Language": "russian",
    "X-Voice-Applied": "gender, age, emotion",
    "X-Something-New": "100%25",
}


def tone(seconds: float) -> bytes:
    """Raw int16 audio: 440 Hz that swells and fades four times a second."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    samples = 0.6 * np.sin(2 * np.pi * 440 * t) * np.abs(np.sin(2 * np.pi * 2 * t)) ** 1.5
    return (samples * 32767).astype("<i2").tobytes()


TIMES = [
    {"text": "Раз 😀.", "start_s": 0.0, "end_s": 0.3, "start_char": 0, "end_char": 6},
    {"text": "Два.", "start_s": 0.4, "end_s": 0.7, "start_char": 7, "end_char": 11},
]


def event(kind: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': f'speech.{kind}', **fields})}\n\n"


def delta(audio: bytes) -> str:
    return event("audio.delta", audio=base64.b64encode(audio).decode())


def refusal(status: int, code: str, message: str, param: str | None = None) -> Response:
    error = {"code": code, "message": message, "type": "invalid_request_error", "param": param}
    return JSONResponse({"error": error}, status)


class FakeService:
    """The routes the page uses; a test sets how they answer and reads what was asked."""

    url: str

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.left = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.speech_s = 0.8
        self.is_broken = False
        self.is_endless = False
        self.needs_key = False
        self.has_voices = True
        self.refusal: Response | None = None
        self.can_clone = False
        self.kind = "custom_voice"
        self.kept: list[dict[str, Any]] = []
        self.forms: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/audio/voices", self.voices, methods=["GET"]),
                Route("/v1/audio/voices", self.keep, methods=["POST"]),
                Route("/v1/audio/voices/{name}", self.forget, methods=["DELETE"]),
                Route("/tts", self.tts, methods=["POST"]),
                Route("/stream-tts", self.stream, methods=["POST"]),
                *playground.routes(),
            ]
        )

    async def health(self, _: Request) -> Response:
        state = {"status": "ready", "sampling_rate": RATE_HZ, "speakers": ["ryan"]}
        return JSONResponse(state | {"voice_cloning": self.can_clone, "kind": self.kind})

    async def voices(self, _: Request) -> Response:
        if not self.has_voices:
            return refusal(404, "not_found", "there is no such route")
        return JSONResponse({"voices": [*VOICES, *self.kept]})

    async def keep(self, request: Request) -> Response:
        if self.refusal is not None:
            return self.refusal
        async with request.form() as form:
            sent: dict[str, Any] = dict(form)
            if "audio_sample" in sent:
                sent["audio_sample"] = await sent["audio_sample"].read()
        self.forms.append(sent)
        name = sent["name"]
        voice = {"id": name, "object": "audio.voice", "name": name, "speaker": name}
        self.kept.append(voice)
        return JSONResponse(voice | {"warning": "the recording is clipped: record it less loud"})

    async def forget(self, request: Request) -> Response:
        self.kept = [voice for voice in self.kept if voice["id"] != request.path_params["name"]]
        return JSONResponse({"deleted": True})

    async def _refused(self, request: Request) -> Response | None:
        self.bodies.append((request.url.path, await request.json()))
        if self.needs_key and request.headers.get("authorization") != f"Bearer {KEY}":
            return refusal(401, "unauthorized", "give the API key")
        return self.refusal

    async def tts(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        file = io.BytesIO()
        samples = np.frombuffer(tone(self.speech_s), "<i2")
        soundfile.write(file, samples, RATE_HZ, format=self.bodies[-1][1]["format"].upper())
        if request.headers["accept"] == "application/json":
            audio = base64.b64encode(file.getvalue()).decode()
            return JSONResponse({"audio": audio, "timestamps": TIMES}, headers=HEADERS)
        return Response(file.getvalue(), media_type="audio/mpeg", headers=HEADERS)

    async def stream(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        if request.headers["accept"] == "text/event-stream":
            return StreamingResponse(
                self._events(), media_type="text/event-stream", headers=HEADERS
            )
        return StreamingResponse(self._parts(), media_type="audio/pcm", headers=HEADERS)

    async def _events(self) -> AsyncIterator[str]:
        sentence, later = TIMES
        audio = tone(self.speech_s)
        begun = {key: value for key, value in sentence.items() if key != "end_s"}
        yield event("sentence", **begun) + delta(audio[: CHUNK_SAMPLES * 2 + 1])
        await asyncio.to_thread(self.gate.wait, 20)
        yield event("timestamp", **sentence)[:30]  # networks tear events too
        yield event("timestamp", **sentence)[30:] + delta(audio[CHUNK_SAMPLES * 2 + 1 :])
        yield event("timestamp", **later) + event("audio.done")

    async def _parts(self) -> AsyncIterator[bytes]:
        audio = tone(self.speech_s)
        try:
            # An odd size: samples are torn between chunks, as networks tear them.
            for at in range(0, len(audio), CHUNK_SAMPLES * 2 + 1):
                yield audio[at : at + CHUNK_SAMPLES * 2 + 1]
                await asyncio.to_thread(self.gate.wait, 20)
            while self.is_endless:
                yield tone(0.08)
                await asyncio.sleep(0.05)
            if self.is_broken:
                raise ConnectionError("the voice failed on the way")
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The tests' own handlers stay."""


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(fake.app, log_level="critical", ws="none", lifespan="off")
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield fake
        fake.gate.set()
        fake.is_endless = False
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),
        *("disable-dev-shm-usage", "autoplay-policy=no-user-gesture-required"),
        *("window-size=1180,1000", "lang=en-US", f"host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page as a person sees it."""

    def __init__(self, browser: Any, service: Any) -> None:
        self.browser = browser
        self.service = service

    def open(self) -> "Page":
        self.browser.get(f"{self.service.url}/playground")
        self.until(lambda: len(self.at("speaker").find_elements(By.TAG_NAME, "option")) > 1)
        return self

    def at(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.at(name).text

    def until(self, holds: Any) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.02).until(lambda _: holds())

    def speak(self) -> None:
        self.at("speak").click()

    def toggle_fold_of(self, field: str) -> None:
        """Fold what holds the field, or unfold it."""
        self.at(field).find_element(By.XPATH, "ancestor::details/summary").click()

    def until_status(self, status: str) -> None:
        self.until(lambda: self.text("status") == status)

    def marked(self) -> list[str]:
        """The text beside the waveform, and what is marked in it."""
        script = """const shown = document.getElementById("spoken");
        return [shown.textContent, shown.querySelector("mark")?.textContent ?? ""];"""
        return list(self.browser.execute_script(script))

    def fact(self, name: str) -> str:
        return self.browser.find_element(By.CSS_SELECTOR, f'[data-fact="{name}"] dd').text


@pytest.fixture
def page(browser: Any, service: FakeService) -> Page:
    browser.get_log("browser")
    browser.get_log("performance")
    return Page(browser, service).open()


# What is served ---------------------------------------------------------------------------


def test_page_is_served_with_a_policy_that_forbids_other_origins(service: FakeService) -> None:
    answer = httpx.get(f"{service.url}/playground/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_address_without_slash_leads_to_the_page_whatever_the_host(service: FakeService) -> None:
    answer = httpx.get(f"{service.url}/playground", headers={"Host": "somewhere.example"})
    assert answer.status_code == 307
    assert answer.headers["location"] == "playground/"


def test_modules_are_served_as_javascript(service: FakeService) -> None:
    answer = httpx.get(f"{service.url}/playground/app.js")
    assert answer.headers["content-type"].partition(";")[0] in (
        "text/javascript",
        "application/javascript",
    )


def test_unknown_file_is_not_found(service: FakeService) -> None:
    assert httpx.get(f"{service.url}/playground/nothing.js").status_code == 404


def test_both_languages_have_the_same_words(service: FakeService) -> None:
    source = (Path(playground.__file__).parent / "static" / "i18n.js").read_text("utf-8")
    english, russian = source.split("\n  ru: {")
    plural_forms = {'"count.few"', '"count.many"'}
    assert _keys(english.split("\n  en: {")[1]) == _keys(russian.split("\n};")[0]) - plural_forms


def _keys(block: str) -> set[str]:
    lines = [line for line in block.splitlines() if line.startswith("    ")]
    return {line.strip().partition(": ")[0] for line in lines}


def test_every_reason_that_the_page_translates_is_one_that_the_server_gives() -> None:
    page = Path(playground.__file__).parent / "static" / "reasons.js"
    table = page.read_text("utf-8").partition("const RUSSIAN = {")[2].partition("\n};")[0]
    translated = re.findall(r'^  "(.+?)":', table, re.MULTILINE)
    assert len(translated) > 25
    said = "\n".join(_sentences(Path(playground.__file__).parents[2]))
    for english in translated:
        for piece in re.split(r"\{\w+\}|must \w+ |; got ", english):
            assert piece.strip(" :;") in said, english


def _sentences(package: Path) -> Iterator[str]:
    """Every text in the code, the values of f-strings left out."""
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_their_ground(theme: str) -> None:
    style = (Path(playground.__file__).parent / "static" / "style.css").read_text("utf-8")
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(roots) == 2
    colours = dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", roots[theme == "dark"]))
    pairs = [(ink, ground) for ink in ("ink", "muted") for ground in ("ground", "card", "field")]
    pairs += [("on-accent", "accent"), ("danger", "danger-soft"), ("ink", "accent-soft")]
    ratios = {pair: _contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}  # WCAG AA


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of sRGB, as WCAG 2 defines it."""
    rgb = np.array([int(colour[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# In the browser ---------------------------------------------------------------------------


@in_browser
def test_page_loads_without_console_messages(page: Page) -> None:
    assert page.browser.get_log("browser") == []
    assert page.text("status") == "Ready"


@in_browser
def test_page_asks_no_other_origin(page: Page) -> None:
    page.speak()
    page.until_status("Finished")
    asked = {url for url in _requested(page.browser) if not url.startswith(("data:", "blob:"))}
    assert f"{page.service.url}/stream-tts" in asked
    assert {url for url in asked if not url.startswith(page.service.url)} == set()


def _requested(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]


@in_browser
def test_first_audio_sounds_before_the_speech_is_complete(page: Page) -> None:
    page.service.gate.clear()
    page.speak()
    page.until_status("Speaking…")
    page.until(lambda: page.text("first-audio").endswith("ms"))
    assert not page.at("waveform").get_property("hidden")
    page.service.gate.set()
    page.until_status("Finished")
    assert page.text("duration") == "0.8 s"
    assert page.text("real-time-factor") != "–"


@in_browser
def test_gap_in_the_stream_is_counted_as_an_underrun(page: Page) -> None:
    page.service.gate.clear()
    page.speak()
    page.until_status("Speaking…")
    # One chunk of 80 ms and the lead of 80 ms: silence is certain once 0.5 s has been played.
    page.browser.set_script_timeout(10)
    page.browser.execute_async_script("setTimeout(arguments[0], 500)")
    page.service.gate.set()
    page.until_status("Finished")
    assert int(page.text("underruns")) >= 1


@in_browser
def test_waveform_is_drawn(page: Page) -> None:
    page.speak()
    page.until_status("Finished")
    colours = page.browser.execute_script(
        """const canvas = document.getElementById("waveform");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, 20);
        return data.filter((_, i) => i % 4 === 3).some((alpha) => alpha > 0);"""
    )
    assert colours is True


@in_browser
def test_request_has_the_values_of_the_form(page: Page) -> None:
    Select(page.at("gender")).select_by_value("female")
    Select(page.at("emotion")).select_by_value("happy")
    Select(page.at("language")).select_by_value("russian")
    page.at("age").send_keys("25")
    page.speak()
    page.until_status("Finished")
    path, body = page.service.bodies[-1]
    assert path == "/stream-tts"
    assert body.pop("text")
    assert body == {
        "format": "pcm",
        "temperature": 0.7,
        "language": "russian",
        "voice_attributes": {"gender": "female", "age": 25, "emotion": "happy"},
    }


@in_browser
def test_text_options_are_sent_as_they_are_set(page: Page) -> None:
    page.toggle_fold_of("normalize")
    Select(page.at("normalize")).select_by_value("light")
    Select(page.at("on_unspeakable")).select_by_value("silence")
    page.at("pronunciations").send_keys("GPU = gee pee you\n\n  a=b = c \n")
    page.speak()
    page.until_status("Finished")
    body = page.service.bodies[-1][1]
    assert body["normalize"] == "light"
    assert body["on_unspeakable"] == "silence"
    assert body["pronunciations"] == {"GPU": "gee pee you", "a": "b = c"}
    SpeechBody(**body)  # the server knows every field and value by these names


@in_browser
def test_sound_options_are_sent_as_they_are_set_and_the_rate_is_that_of_the_player(
    page: Page,
) -> None:
    for fold in ("split", "seed"):
        page.toggle_fold_of(fold)
    Select(page.at("split")).select_by_value("never")
    Select(page.at("sample_rate")).select_by_value("48000")
    page.at("lead_in_ms").send_keys("100")
    page.at("tail_ms").send_keys("0")
    page.at("speed").send_keys(Keys.ARROW_RIGHT)
    page.speak()
    page.until_status("Finished")
    body = page.service.bodies[-1][1]
    options = {"split": "never", "sample_rate": 48000, "lead_in_ms": 100, "tail_ms": 0}
    assert {name: body.get(name) for name in options} == options
    assert body["speed"] == 1.05
    assert page.text("duration") == "0.4 s"  # 0.8 s at 24,000 Hz
    SpeechBody(**body)


@in_browser
def test_pronunciation_without_equals_is_named_by_its_line_and_not_sent(page: Page) -> None:
    page.toggle_fold_of("normalize")
    page.at("pronunciations").send_keys("GPU = gee pee you\n\nCPU see pee you")
    page.toggle_fold_of("normalize")
    page.speak()
    page.until_status("Failed")
    assert page.text("alert").splitlines() == [
        "Line 3 has no “=” between a word and its reading: CPU see pee you",
        "Field: pronunciations",
    ]
    assert page.at("pronunciations").is_displayed()
    assert page.at("pronunciations").get_attribute("aria-invalid") == "true"
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="ru"]').click()
    assert page.text("alert").startswith("В строке 3 нет «=» между словом и чтением")
    page.browser.execute_script("localStorage.clear()")
    assert page.service.bodies == []
    page.at("pronunciations").clear()
    page.speak()
    page.until_status("Закончено")
    assert "pronunciations" not in page.service.bodies[-1][1]


@in_browser
def test_refused_text_option_is_unfolded_with_the_reason_in_russian(page: Page) -> None:
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="ru"]').click()
    page.browser.execute_script("localStorage.clear()")
    page.service.refusal = refused(pronunciations={"GPU": " "})
    page.speak()
    page.until_status("Не удалось")
    assert page.text("alert").splitlines() == [
        "В запросе ошибка",
        'произношение: нет чтения (запись "GPU")',
        "Поле: pronunciations",
    ]
    assert page.at("pronunciations").is_displayed()
    assert page.at("pronunciations").get_attribute("aria-invalid") == "true"


def refused(**fields: Any) -> Response:
    """What the server itself says about a body with these fields."""
    with pytest.raises(ValidationError) as wrong:
        SpeechBody(text="a", **fields)
    reason = from_validation(wrong.value, SpeechBody)
    return refusal(400, "invalid_request", reason.message, reason.param)


@in_browser
def test_named_speaker_replaces_gender_and_age(page: Page) -> None:
    page.at("age").send_keys("25")
    Select(page.at("speaker")).select_by_visible_text("Ryan · male, english")
    assert not page.at("age").is_enabled()
    page.speak()
    page.until_status("Finished")
    body = page.service.bodies[-1][1]
    assert body["speaker"] == "ryan"
    assert "voice_attributes" not in body


@in_browser
def test_every_fact_about_the_voice_is_shown(page: Page) -> None:
    page.speak()
    page.until_status("Finished")
    assert page.fact("x-voice") == "serena"
    assert page.fact("x-language") == "Russian"
    assert page.fact("x-voice-applied") == "gender, age, emotion"
    assert page.fact("x-something-new") == "100%"


@in_browser
def test_page_works_on_plain_http(page: Page) -> None:
    page.service.url = page.service.url.replace("127.0.0.1", PLAIN_HOST)
    page.open()
    assert page.browser.execute_script("return isSecureContext") is False
    page.at("copy").click()
    page.until(lambda: page.text("copy") == "Copied")
    page.speak()
    page.until_status("Finished")


@in_browser
def test_stop_ends_the_request_on_the_server(page: Page) -> None:
    page.service.is_endless = True
    page.speak()
    page.until_status("Speaking…")
    page.at("stop").click()
    assert page.service.left.wait(10)
    assert page.text("status") == "Stopped"
    assert page.at("alert").get_property("hidden")


@in_browser
def test_keys_speak_and_stop(page: Page) -> None:
    page.service.is_endless = True
    page.at("text").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until_status("Speaking…")
    page.at("text").send_keys(Keys.ESCAPE)
    assert page.service.left.wait(10)
    assert page.text("status") == "Stopped"


@in_browser
def test_refusal_is_shown_with_its_field(page: Page) -> None:
    page.service.refusal = refusal(
        422, "cannot_speak", "age has no meaning for this voice", "voice_attributes.age"
    )
    page.speak()
    page.until_status("Failed")
    assert page.text("alert").splitlines() == [
        "This cannot be spoken",
        "age has no meaning for this voice",
        "Field: voice_attributes.age",
    ]
    assert page.at("alert").get_attribute("role") == "alert"
    assert page.at("age").get_attribute("aria-invalid") == "true"
    assert not page.at("stop").is_enabled()


@in_browser
def test_errors_are_shown_in_the_language_of_the_page_where_translated(page: Page) -> None:
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="ru"]').click()
    for message, shown in (
        (
            "voice_attributes.age: must be at most 120; got 130",
            "возраст: не больше 120, а послано 130",
        ),
        ("no such reason", "no such reason"),
    ):
        page.service.refusal = refusal(400, "invalid_request", message)
        page.speak()
        page.until(lambda shown=shown: shown in page.text("alert"))
        assert page.text("alert").splitlines() == ["В запросе ошибка", shown]
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="en"]').click()
    assert page.text("alert").splitlines()[0] == "The request is not right"
    page.browser.execute_script("localStorage.clear()")


@in_browser
def test_emptied_text_is_no_error_of_the_page(page: Page) -> None:
    page.at("text").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert page.text("count") == "0 characters"
    assert "/stream-tts" in page.text("curl")
    page.at("stream").click()
    assert "/tts" in page.text("curl")
    assert page.browser.get_log("browser") == []


@in_browser
def test_refused_field_is_unfolded(page: Page) -> None:
    assert not page.at("seed").is_displayed()
    page.service.refusal = refusal(400, "invalid_request", "seed is too large", "seed")
    page.speak()
    page.until_status("Failed")
    assert page.at("seed").is_displayed()


@in_browser
def test_page_works_without_a_list_of_voices(page: Page) -> None:
    page.service.has_voices = False
    page.open()
    options = [option.text for option in Select(page.at("speaker")).options]
    assert options == ["By description", "ryan"]  # from /health
    page.speak()
    page.until_status("Finished")


@in_browser
def test_still_page_shows_the_waveform_without_animation(page: Page) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.browser.execute_script(
        """window.drawn = 0;
        const clear = CanvasRenderingContext2D.prototype.scale;
        CanvasRenderingContext2D.prototype.scale = function (...by) {
          window.drawn += 1;
          return clear.apply(this, by);
        };"""
    )
    page.speak()
    page.until_status("Finished")
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    # 0.8 s at 60 frames a second would be some fifty; still, it is at most two a second.
    assert 1 <= page.browser.execute_script("return window.drawn") <= 20


@in_browser
def test_busy_server_names_when_to_retry(page: Page) -> None:
    page.service.refusal = refusal(429, "busy", "all slots are taken")
    page.service.refusal.headers["Retry-After"] = "7"
    page.speak()
    page.until_status("Failed")
    assert "Try again in 7 s" in page.text("alert")


@in_browser
def test_broken_stream_does_not_look_finished(page: Page) -> None:
    page.service.is_broken = True
    page.speak()
    page.until(lambda: "incomplete" in page.text("alert"))
    page.until(lambda: not page.at("stop").is_enabled())
    assert page.text("status") == "Failed"


@in_browser
def test_key_is_asked_for_and_kept_for_the_tab(page: Page) -> None:
    page.service.needs_key = True
    page.speak()
    page.until(lambda: page.at("key").is_displayed())
    assert page.browser.switch_to.active_element == page.at("key")
    page.at("key").send_keys(KEY, Keys.ENTER)
    page.until_status("Finished")
    assert KEY not in page.text("curl")
    assert "$API_KEY" in page.text("curl")
    page.open()
    page.speak()
    page.until_status("Finished")


@in_browser
def test_language_switch_is_remembered(page: Page) -> None:
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="ru"]').click()
    assert page.text("speak") == "Произнести"
    page.open()
    assert page.text("speak") == "Произнести"
    assert page.browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "ru"
    assert page.text("count") == "78 знаков"
    page.browser.execute_script("localStorage.clear()")


@in_browser
def test_whole_file_is_asked_for_and_played(page: Page) -> None:
    page.at("stream").click()
    Select(page.at("format")).select_by_value("mp3")
    page.speak()
    page.until_status("Finished")
    assert page.service.bodies[-1][0] == "/tts"
    assert page.service.bodies[-1][1]["format"] == "mp3"
    assert page.text("duration").startswith("0.")


@in_browser
@pytest.mark.parametrize("is_stream", [True, False])
def test_what_is_heard_is_marked_in_the_text(page: Page, is_stream: bool) -> None:
    page.at("text").clear()
    page.browser.execute_script("arguments[0].value = 'Раз 😀. Два.'", page.at("text"))
    Select(page.at("timestamps")).select_by_value("sentence")
    if is_stream:
        page.service.gate.clear()
    else:
        page.at("stream").click()
    page.speak()
    for number, sentence in enumerate(TIMES):
        page.until(lambda said=sentence: page.marked() == ["Раз 😀. Два.", said["text"]])
        if number == 0:
            page.service.gate.set()
    page.until_status("Finished")
    assert not page.at("spoken").is_displayed()
    assert page.service.bodies[-1][1]["timestamps"] == "sentence"
    assert f"Accept: {'text/event-stream' if is_stream else 'application/json'}" in page.text(
        "curl"
    )


@in_browser
def test_wav_download_is_the_audio_that_was_heard(page: Page, tmp_path: Path) -> None:
    page.speak()
    page.until_status("Finished")
    saved = _download(page, tmp_path, "speech.wav")
    assert saved[44:] == tone(0.8)
    assert len(page.service.bodies) == 1


@in_browser
def test_mp3_download_asks_for_the_seed_that_was_heard(page: Page, tmp_path: Path) -> None:
    page.speak()
    page.until_status("Finished")
    Select(page.at("format")).select_by_value("mp3")
    assert len(_download(page, tmp_path, "speech.mp3")) > 1000
    path, body = page.service.bodies[-1]
    assert (path, body["seed"], body["format"]) == ("/tts", 42, "mp3")


def _download(page: Page, folder: Path, name: str) -> bytes:
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    page.at("download").click()
    page.until((folder / name).exists)
    return (folder / name).read_bytes()


@in_browser
def test_speech_can_be_played_again_without_asking(page: Page) -> None:
    page.speak()
    page.until_status("Finished")
    page.at("replay").click()
    page.until_status("Speaking…")
    page.until_status("Finished")
    assert len(page.service.bodies) == 1


@in_browser
def test_curl_command_is_the_request(page: Page) -> None:
    page.browser.execute_script("arguments[0].value = ''", page.at("text"))
    page.at("text").send_keys("It's raining")
    Select(page.at("format")).select_by_value("ogg")
    command = page.text("curl")
    assert command.startswith(f"curl -X POST {page.service.url}/stream-tts")
    assert r'"text":"It' "'\\''" 's raining"' in command
    assert command.endswith("--output speech.ogg")


@in_browser
def test_every_control_has_a_name(page: Page) -> None:
    unnamed = page.browser.execute_script(
        """return [...document.querySelectorAll("input, select, textarea, button")]
        .filter((node) => !node.labels?.length && !node.getAttribute("aria-label")
          && !node.textContent.trim()).map((node) => node.id)"""
    )
    assert unnamed == []


# With the real service --------------------------------------------------------------------


@in_browser
def test_real_service_speaks_with_a_key_and_without_a_word_in_the_console(
    browser: Any, locked: Server
) -> None:
    browser.get_log("browser")
    page = Page(browser, SimpleNamespace(url=locked.base_url)).open()
    page.speak()
    page.until(lambda: page.at("key").is_displayed())
    page.at("key").send_keys(KEY, Keys.ENTER)
    page.until_status("Finished")
    assert page.text("first-audio").endswith("ms")
    assert page.text("duration") != "–"
    assert page.fact("x-model") == "espeak-ng"
    refusals = [entry for entry in browser.get_log("browser") if "401" not in entry["message"]]
    assert refusals == []


# Cloning ----------------------------------------------------------------------------------


@pytest.fixture
def cloning(page: Page) -> Page:
    page.service.can_clone = True
    page.open()
    page.until(lambda: page.at("cloning").is_displayed())
    page.toggle_fold_of("transcript")
    return page


@in_browser
def test_without_cloning_there_is_nothing_about_it(page: Page) -> None:
    assert not page.at("cloning").is_displayed()


@in_browser
def test_a_voice_is_kept_from_a_file_spoken_with_and_deleted(cloning: Page, tmp_path: Path) -> None:
    page, file = cloning, tmp_path / "anna.wav"
    soundfile.write(file, np.frombuffer(tone(1.5), "<i2"), RATE_HZ)
    assert not page.at("delete-voice").is_displayed()
    page.at("recording").send_keys(str(file))
    page.at("transcript").send_keys("Hello there.")
    page.at("voice-name").send_keys("anna")
    page.at("consent").click()
    page.at("keep-voice").click()
    page.until_status("Voice anna is kept")
    (form,) = page.service.forms
    assert form["audio_sample"] == file.read_bytes()
    assert (form["name"], form["ref_text"]) == ("anna", "Hello there.")
    assert "agrees" in form["consent"]
    assert "clipped" in page.text("alert")
    page.speak()
    page.until_status("Finished")
    assert page.service.bodies[-1][1]["speaker"] == "anna"
    assert page.text("delete-voice") == "Delete anna"
    page.at("delete-voice").click()
    page.until_status("Voice anna is deleted")
    assert page.service.kept == []
    assert not page.at("delete-voice").is_displayed()
    assert page.at("speaker").get_attribute("value") == ""


@in_browser
def test_a_voice_is_kept_from_the_microphone(cloning: Page) -> None:
    page = cloning
    page.at("record").click()
    page.until_status("Recording…")
    page.until(lambda: page.text("record") == "Stop recording")
    page.browser.execute_async_script("setTimeout(arguments[0], 500)")  # what is recorded
    page.at("record").click()
    page.until(lambda: page.text("recorded") == "Recorded")
    page.at("voice-name").send_keys("me")
    page.at("consent").click()
    page.at("keep-voice").click()
    page.until_status("Voice me is kept")
    samples, rate_hz = soundfile.read(io.BytesIO(page.service.forms[0]["audio_sample"]))
    assert rate_hz > 0
    assert 0.2 < len(samples) / rate_hz < 20
    assert samples.ndim == 1
    assert np.abs(samples).max() > 0.01  # the browser's own microphone beeps


@in_browser
def test_nothing_is_sent_without_a_recording_or_consent(cloning: Page, tmp_path: Path) -> None:
    page, file = cloning, tmp_path / "anna.wav"
    page.at("keep-voice").click()
    page.until(lambda: "Record something" in page.text("alert"))
    soundfile.write(file, np.frombuffer(tone(1.5), "<i2"), RATE_HZ)
    page.at("recording").send_keys(str(file))
    page.at("keep-voice").click()
    page.until(lambda: "must agree" in page.text("alert"))
    assert page.service.forms == []


@in_browser
def test_a_recording_that_is_refused_is_explained(cloning: Page, tmp_path: Path) -> None:
    page, file = cloning, tmp_path / "anna.wav"
    soundfile.write(file, np.frombuffer(tone(0.5), "<i2"), RATE_HZ)
    page.service.refusal = refusal(
        400, "invalid_recording", "the recording is shorter than 1 s; 5 to 15 s are best"
    )
    page.browser.find_element(By.CSS_SELECTOR, '[data-page-language="ru"]').click()
    page.at("recording").send_keys(str(file))
    page.at("consent").click()
    page.at("keep-voice").click()
    page.until(lambda: "нельзя клонировать" in page.text("alert"))
    assert "запись короче 1 с" in page.text("alert")
    page.browser.execute_script("localStorage.clear()")


@in_browser
def test_a_described_voice_is_heard_and_kept_as_it_was_heard(page: Page) -> None:
    page.service.can_clone, page.service.kind = True, "voice_design"
    page.browser.refresh()
    page.until(lambda: page.at("cloning").is_displayed())
    assert page.text("instruct-label") == "Description of the voice"
    assert page.at("instruct").is_displayed()
    assert not page.at("speaker").is_displayed()
    page.toggle_fold_of("voice-name")
    assert not page.at("recording").is_displayed()
    page.at("voice-name").send_keys("deep")
    page.at("keep-voice").click()
    page.until(lambda: "listen to it first" in page.text("alert"))
    Select(page.at("emotion")).select_by_value("sad")
    page.at("instruct").send_keys("A calm voice.")
    assert not page.at("emotion").is_enabled()
    page.at("text").clear()
    page.at("text").send_keys("Hello there.")
    page.speak()
    page.until_status("Finished")
    body = page.service.bodies[-1][1]
    assert (body["instruct"], "voice_attributes" in body) == ("A calm voice.", False)
    page.at("keep-voice").click()
    page.until_status("Voice deep is kept")
    assert page.service.forms == [
        {
            "name": "deep",
            "description": "A calm voice.",
            "ref_text": "Hello there.",
            "temperature": "0.7",
            "seed": HEADERS["X-Seed"],
        }
    ]


@in_browser
def test_a_model_that_clones_has_no_fields_that_it_cannot_follow(page: Page) -> None:
    page.service.kind = "base"
    page.browser.refresh()
    page.until(lambda: not page.at("gender").is_displayed())
    page.toggle_fold_of("seed")
    for field in ("age", "emotion", "instruct"):
        assert not page.at(field).is_displayed()
    assert page.at("speaker").is_displayed()


@in_browser
def test_the_service_itself_keeps_a_voice_for_the_page(
    browser: Any, start_server: StartServer, tmp_path: Path
) -> None:
    write_quick_checkpoint(tmp_path / "models" / "base", "tiny_base_1b7")
    paths = {"MODEL_PATH": str(tmp_path / "models"), "VOICES_PATH": str(tmp_path / "voices")}
    with start_server(MODEL_NAME="base", DEVICE="cpu", VOICE_CLONING="1", **paths) as server:
        page = Page(browser, SimpleNamespace(url=server.base_url))
        browser.get(f"{server.base_url}/playground")
        page.until(lambda: page.at("cloning").is_displayed())
        page.toggle_fold_of("transcript")
        page.at("recording").send_keys(str(VOICES_DATA / "references" / "ref_a.flac"))
        page.at("transcript").send_keys("hello the wide world")
        page.at("voice-name").send_keys("anna")
        page.at("consent").click()
        page.at("keep-voice").click()
        page.until_status("Voice anna is kept")
        page.at("text").clear()
        page.at("text").send_keys("hello")
        page.speak()
        page.until(lambda: page.text("status") in ("Finished", "Failed"))
        assert page.fact("x-voice") == "anna"
        page.at("delete-voice").click()
        page.until_status("Voice anna is deleted")
        assert list((tmp_path / "voices").iterdir()) == []
