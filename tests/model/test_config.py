"""Reading a checkpoint's configuration: names in any case."""

import json
from pathlib import Path

from tests.model.conftest import DATA

from qwen_tts_service.model.config import load_config


def test_names_of_speakers_languages_and_dialects_are_read_in_any_case(tmp_path: Path) -> None:
    source = DATA / "tiny_1b7"
    config = json.loads((source / "config.json").read_text())
    talker = config["talker_config"]
    for key in ("spk_id", "codec_language_id"):
        talker[key] = {name.title(): value for name, value in talker[key].items()}
    talker["spk_is_dialect"] = {
        name.upper(): value.title() if value else value
        for name, value in talker["spk_is_dialect"].items()
    }
    assert any(talker["spk_is_dialect"].values())
    (tmp_path / "speech_tokenizer").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    speech = Path("speech_tokenizer") / "config.json"
    (tmp_path / speech).write_bytes((source / speech).read_bytes())
    assert load_config(tmp_path) == load_config(source)
