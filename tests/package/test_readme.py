"""README.md and README.ru.md: every snippet is run, every table says what the code says.

A snippet that cannot run here carries `<!-- not run: docker|gpu|weights -->` before it. Both
files have the same snippets, so those of README.md are run.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import soundfile

from qwen_tts_service import errors
from qwen_tts_service.api.errors import PLAIN, STATUS
from qwen_tts_service.api.wire import StreamTTSBody, TTSBody
from qwen_tts_service.settings import Settings
from qwen_tts_service.types import AudioFormat

ROOT = Path(__file__).parent.parent.parent
ENGLISH, RUSSIAN = ROOT / "README.md", ROOT / "README.ru.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README_PORT = "8188"
SERVES = "./scripts/serve"
NOT_RUN = {"docker": 1, "weights": 3}

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>\w+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
WRITES = re.compile(r"--output (\S+)|open\(\"([^\"]+)\", \"wb\"\)")


@dataclass(frozen=True)
class Snippet:
    """One fenced block; `reason` says why it is not run."""

    line: int
    reason: str | None
    language: str
    code: str


def snippets_of(readme: Path) -> list[Snippet]:
    text = readme.read_text()
    return [
        Snippet(text.count("\n", 0, m.start()) + 1, m["reason"], m["language"], m["code"])
        for m in FENCE.finditer(text)
    ]


def table(readme: Path, below: str) -> list[list[str]]:
    """The rows of the first table after a text, without its head; cells without backticks."""
    after = readme.read_text().partition(below)[2]
    lines = re.search(r"(?:^\|.*\|\n)+", after, re.MULTILINE)
    assert lines, below
    rows = lines[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in row.split("|")[1:-1]] for row in rows]


RUN = [s for s in snippets_of(ENGLISH) if s.reason is None]
each_readme = pytest.mark.parametrize("readme", [ENGLISH, RUSSIAN], ids=["english", "russian"])
HEADS = {
    "settings": ("## Settings", "## Настройки"),
    "errors": ("### Errors", "### Ошибки"),
    "fields": ("## Request fields", "## Поля запроса"),
    "formats": ("### Formats", "### Форматы"),
}


def rows_of(readme: Path, name: str) -> list[list[str]]:
    return table(readme, HEADS[name][readme == RUSSIAN])


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what snippets need, where they may write."""
    for name in ("service.py", "bentofile.yaml", "requirements-image.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def check_audio(file: Path) -> None:
    raw = {"format": "RAW", "subtype": "ULAW", "samplerate": 8000, "channels": 1}
    samples, _ = soundfile.read(file, **(raw if file.suffix == ".mulaw" else {}))
    assert abs(samples).max() > 0.01


def run(command: list[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    ran = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    "snippet", [s for s in RUN if SERVES not in s.code], ids=lambda s: f"line-{s.line}"
)
def test_snippet_does_what_it_says(snippet: Snippet, server, checkout: Path) -> None:
    code = snippet.code.replace(README_PORT, str(server.port))
    interpreter = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable]}
    output = run([*interpreter[snippet.language], "-c", code], checkout)
    assert '"error"' not in output
    for names in WRITES.findall(code):
        check_audio(checkout / "".join(names))


@pytest.mark.parametrize("snippet", [s for s in RUN if SERVES in s.code], ids=lambda s: s.code)
def test_serve_command_serves(snippet: Snippet, start_server, tmp_path: Path) -> None:
    with start_server(command=["bash", "-c", snippet.code.strip()]) as server:
        run(["curl", "-fsS", f"{server.base_url}/health"], tmp_path)


def test_no_snippet_is_left_out_without_a_reason() -> None:
    everything = snippets_of(ENGLISH)
    assert ENGLISH.read_text().count("```") == 2 * len(everything)
    assert Counter(s.reason for s in everything if s.reason) == NOT_RUN


def test_both_languages_have_the_same_snippets() -> None:
    def essence(readme: Path) -> list[tuple[str | None, str, str]]:
        return [(s.reason, s.language, s.code) for s in snippets_of(readme)]

    assert essence(ENGLISH) == essence(RUSSIAN)


@each_readme
def test_settings_table_is_complete_and_true(readme: Path) -> None:
    listed = {row[0]: row[1] for row in rows_of(readme, "settings")}
    del listed["HOST"], listed["PORT"]
    assert listed.keys() == {name.upper() for name in Settings.model_fields}
    defaults = Settings(**{name.lower(): value for name, value in listed.items() if value})
    assert defaults == Settings()


@each_readme
def test_errors_table_is_complete_and_true(readme: Path) -> None:
    listed = {(int(status), code) for status, code, _ in rows_of(readme, "errors")}
    ours = {(status, kind.code) for kind, status in STATUS.items() if kind is not errors.ClientLeft}
    assert listed == ours | {(status, PLAIN[status][0]) for status in (404, 405)}


@each_readme
def test_fields_table_is_complete(readme: Path) -> None:
    listed = {row[0] for row in rows_of(readme, "fields")}
    assert listed == TTSBody.model_fields.keys() | StreamTTSBody.model_fields.keys()


@each_readme
def test_formats_table_is_complete(readme: Path) -> None:
    listed = {name for row in rows_of(readme, "formats") for name in row[0].split(", ")}
    assert listed == set(get_args(AudioFormat))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", document.read_text())
    for path, anchor in links:
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors_of(target), anchor


@pytest.mark.parametrize("name", ["docker-compose.yml", ".env.example"])
def test_compose_passes_every_setting_on(name: str) -> None:
    text = (ROOT / name).read_text()
    names = map(str.upper, Settings.model_fields)
    missing = {name for name in names if not re.search(rf"\b{name}\b", text)}
    assert missing <= {"MODEL_PATH", "VOICES_PATH"}
