"""The pages for clients: snippets are run, lists are complete."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import Server
from tests.package.test_readme import README_PORT, Snippet, check_audio, run, snippets_of

from qwen_tts_service.api.openai import MODEL_ALIASES, CreateSpeechBody
from qwen_tts_service.voice.catalogue import OPENAI_VOICES

DOCS = Path(__file__).parent.parent.parent / "docs"
INDEX = DOCS / "clients.md"
PAGES = sorted((DOCS / "clients").glob("*.md"))
NOT_RUN = {"docker": 2, "package": 3, "speakers": 1, "ffmpeg": 1}
EVERY = [
    pytest.param(snippet, id=f"{page.stem}-{snippet.line}")
    for page in PAGES
    for snippet in snippets_of(page)
    if snippet.reason is None
]
WRITES = re.compile(r"--output (\S+)|(?:open|write_to_file|stream_to_file)\(\"([^\"]+)\"")


@pytest.mark.parametrize("snippet", EVERY)
def test_snippet_does_what_it_says(
    snippet: Snippet, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "any")
    code = snippet.code.replace(README_PORT, str(server.port))
    interpreter = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable]}
    output = run([*interpreter[snippet.language], "-c", code], tmp_path)
    assert '"error"' not in output
    for names in WRITES.findall(code):
        check_audio(tmp_path / "".join(names))


def test_no_snippet_is_left_out_without_a_reason() -> None:
    everything = [snippet for page in PAGES for snippet in snippets_of(page)]
    assert sum(page.read_text().count("```") for page in PAGES) == 2 * len(everything)
    assert Counter(s.reason for s in everything if s.reason) == NOT_RUN


def test_the_index_names_every_page_and_every_field() -> None:
    index = INDEX.read_text()
    assert set(re.findall(r"\(clients/([\w-]+\.md)\)", index)) == {page.name for page in PAGES}
    names = {info.alias or name for name, info in CreateSpeechBody.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in index} <= {"tokens"}
    assert all(f"`{model}`" in index for model in MODEL_ALIASES)
    assert str(len(OPENAI_VOICES)) in index
