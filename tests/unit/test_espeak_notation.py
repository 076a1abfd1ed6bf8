"""What is no word is read as a person would: a table of ten languages, compared by phonemes."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tts_service.espeak import read_table, russian
from qwen_tts_service.espeak.library import EspeakLibrary
from qwen_tts_service.espeak.mapping import LANGUAGE_CODES
from qwen_tts_service.espeak.notation import write_out
from qwen_tts_service.espeak.text import clean
from qwen_tts_service.text.normalise import normalise
from qwen_tts_service.text.split import split_sentences
from qwen_tts_service.text.stress import mark_stress
from qwen_tts_service.types import SpeechRequest

TABLE = Path(__file__).parent.parent / "data" / "espeak_readings.tsv"
# "~" is a no-break space, "^" a narrow one.
SPACES = {ord("~"): "\u00a0", ord("^"): "\u202f"}
ROWS = [line.split("\t") for line in TABLE.read_text("utf-8").splitlines()]


def written_out(text, language):
    return write_out(mark_stress(clean(text)), language)


def sounds(library: EspeakLibrary, texts, language):
    """Phonemes without stress and pauses, which differ between figures and words."""
    unmarked = [russian.unmarked(text) for text in texts]
    shown = library.phonemes(unmarked, LANGUAGE_CODES[language])
    return [re.sub(r"\(..(?:-..)?\)|[_!|',\s#]", "", phonemes) for phonemes in shown]


@pytest.mark.parametrize("language", LANGUAGE_CODES)
def test_texts_sound_like_the_words_that_a_person_would_read(voice, language):
    rows = [row[1:] for row in ROWS if row[0] == language]
    assert len(rows) >= 8
    given = [written_out(text.translate(SPACES), language) for text, _ in rows]
    heard = sounds(voice._library, given, language)
    expected = sounds(voice._library, [words for _, words in rows], language)
    wrong = [
        (text, written)
        for (text, _), written, one, other in zip(rows, given, heard, expected, strict=True)
        if one != other
    ]
    assert wrong == []


def test_words_that_the_text_was_read_out_in_stay():
    pytest.importorskip("ru_normalizr")
    cases = TABLE.with_name("russian_cases.tsv").read_text("utf-8").splitlines()[2::3]
    read = [normalise(case.split("\t")[1], "full", "russian") for case in cases]
    # Capitals may be spelled, Latin words and files are the voice's own to read.
    plain = [text for text in read if not re.search(r"[A-Za-z&×]|[А-ЯЁ](?![а-яё\u0301])", text)]
    assert len(plain) > 200
    changed = [text for text in plain if words(written_out(text, "russian")) != words(text)]
    assert changed == []


def words(text):
    return re.findall(r"[\w\u0301]+", text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Это написал А. С. Пушкин вчера", "russian"),
        ("Смотри см. рис. 3 и т. е. так", "russian"),
        ("Живёт на ул. Ленина у г. Москва", "russian"),
        ("We saw Fig. 3 with Mr. Smith", "english"),
        ("Er kam am 3. Oktober z. B. Montag", "german"),
        ("Voici M. Dupont et Mme Curie", "french"),
        ("Vino el Sr. García p. ej. Ayer", "spanish"),
        ("Ecco il Sig. Rossi p. es. Oggi", "italian"),
        ("Veio o Sr. Silva p. ex. Hoje", "portuguese"),
    ],
)
def test_abbreviations_leave_no_gap(voice, text, language):
    request = SpeechRequest(request_id="test", seed=1, text=text, language=language)
    utterance = voice.prepare(request)
    chunks = []
    for piece in utterance.pieces:
        chunks += voice._library.synthesise(utterance.delivery, piece)
    assert len(utterance.pieces) == 1
    loud = np.flatnonzero(np.abs(np.concatenate(chunks)) > 0.003)
    assert np.diff(loud).max() < 0.17 * voice.sample_rate_hz


SENTENCES = {
    "russian": "Живёт на ул. Ленина, д. 5. Там и т. д. Потом 5 руб. Вот 2024 г. Был год. "
    "А. С. Пушкин писал. См. рис. 3. Цена 10 000 ₽. МГУ открыт. API тоже. XXI век. "
    "Сайт https://ya.ru. Конец.",
    "english": "See Fig. 3. Mr. Smith paid $5.99. He left at 5 p.m. Monday came. It is 東京. "
    "ねこ here. Main St. is long. Bread, etc. And more. J. K. Rowling. The end of U.S. Army.",
    "german": "Am 3. Oktober kam er. Das war z. B. gut. Dr. Müller, usw. Dann 1.500,50 €. Ende.",
    "french": "M. Dupont a 10 000 €. Mme Curie, etc. Ensuite 5 km. Fin.",
    "spanish": "El Sr. García. EE. UU. es grande. P. ej. esto. Fin.",
    "chinese": "价格¥100。今天20°C。10:30见！",
    "japanese": "今日は5km。東京タワー。API。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_one_by_one_are_read_as_in_the_whole_text(voice, language):
    whole, _ = voice._read(SENTENCES[language], language)
    one_by_one = [
        piece
        for sentence in split_sentences(SENTENCES[language])
        for piece in voice._read(sentence, language)[0]
    ]
    assert [piece.split() for piece in one_by_one] == [piece.split() for piece in whole]
    assert len(whole) > 2


@pytest.mark.parametrize(
    ("text", "language", "written"),
    [
        ("Это и т. д. Потом", "russian", "Это и так далее. Потом"),
        ("Это и т. д. потом", "russian", "Это и так далее потом"),
        ("Цена 5 руб. Вот", "russian", "Цена 5 рублей. Вот"),
        ("Bread, etc. And more", "english", "Bread, et cetera. And more"),
        ("Va con Uds. Luego vuelve", "spanish", "Va con Ustedes. Luego vuelve"),
        ("He met Dr. Who", "english", "He met Doctor Who"),
        ("It is him or I. Then", "english", "It is him or I. Then"),
    ],
)
def test_dot_that_ends_the_sentence_too_stays(text, language, written):
    assert write_out(text, language) == written


def test_no_rule_stands_behind_another_of_its_pattern():
    for language in LANGUAGE_CODES:
        patterns = [pattern for pattern, *_ in read_table("notation.toml")[language]["rules"]]
        assert len(patterns) == len(set(patterns)), language


@pytest.mark.parametrize(
    ("text", "language", "written"),
    [
        ("Due 2024-02-01.", "english", "Due February 1, 2024."),
        ("am 01.02.2024 da", "german", "am ersten Februar 2024 da"),
        ("Version 2024.13.40", "english", "Version 2024 13 40"),
        ("32.01.2024", "german", "32 01 2024"),
    ],
)
def test_a_date_is_read_with_the_name_of_its_month(text, language, written):
    assert write_out(text, language) == written


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("2+2, C++, а+б, русский+английский", "russian"),
        ("x<5 и a - b", "russian"),
        ("Python 3.12 и 3.14", "russian"),
        ("I <3 you. No. I will not.", "english"),
        ("1,500 and 3.14 at 10:30", "english"),
        ("1.500 und 3,14", "german"),
        ("Er sagte Nein. Danach ging er", "german"),
        ("HELLO WORLD", "english"),
        ("12 345 678 раз", "english"),
    ],
)  # fmt: skip
def test_what_is_read_well_stays(text, language):
    expected = text.replace(" 345 678", "345678") if "345" in text else text
    assert write_out(mark_stress(text), language) == expected


@pytest.mark.parametrize(
    "text",
    ["слово 5 руб. и т. д. ", "1 000 ", "a.b@c.d ", "8-800-555-", "1.", "АБВ. ", "---", "$5 ", "а́"],
)
@pytest.mark.timeout(30)
def test_long_hostile_text_is_written_out_in_time(text):
    # Far above what it takes; with a quadratic step the time would be over.
    parts = [written_out(text * (n // len(text)), "russian") for n in (2_000, 60_000)]
    assert len(parts[1]) > 20 * len(parts[0])


STRESS = """
    Москва́ вода́ хорошо́ большо́й го́род здра́вствуйте замо́к му́ка пла́чу а́тлас доро́га звони́т по́ле
    и́рис стре́лки у́же бе́лки кру́жки по́том до́ма стои́т во́лос креди́т объе́кт са́мое о́рган ви́ски
    пропа́сть языково́й ха́ос и́збранный догово́р приве́т спаси́бо рабо́та челове́к вре́мя ребёнок
    де́ньги страна́ исто́рия пробле́ма маши́на дире́ктор неде́ля у́лица ма́ленький говори́ть ду́мать
    понима́ть краси́вый молодо́й ва́жный сего́дня за́втра всегда́ никогда́ о́чень мо́жно ну́жно
"""
MOVED = {
    "за́мок": "z'AmVk", "мука́": "muk'A", "плачу́": "plVtS;'u", "хло́пок": "xl'opVk",
    "атла́с": "Vtl'As", "ири́с": "ir;'is", "белки́": "b;Ilk;'i", "кружки́": "k@-ruSk;'i",
    "пото́м": "pVt'om", "дома́": "dVm'A", "сто́ит": "st'oit", "орга́н": "Vrg'An_",
    "виски́": "v;isk;'i", "моя́": "mVj'A", "до́говор": "d'ogVvVr", "уже́": "uZ'E",
}  # fmt: skip


def test_marked_words_are_read_at_least_as_without_the_mark(voice):
    words = STRESS.split()
    assert len(words) >= 60
    plain = [russian.unmarked(word) for word in words]
    known = dict(zip(words, voice._library.phonemes(plain, "ru"), strict=True))
    assert [russian.with_stress(word, known) for word in words] == plain


def test_mark_moves_the_stress_and_the_vowels_with_it(voice):
    phonemes = voice._library.phonemes([russian.unmarked(word) for word in MOVED], "ru")
    known = dict(zip(MOVED, phonemes, strict=True))
    assert {word: russian.with_stress(word, known) for word in MOVED} == {
        word: f"[[{sound}]]" for word, sound in MOVED.items()
    }


def test_a_stressed_vowel_is_soft_before_a_soft_consonant():
    assert russian.with_stress("не\u0301ти", {"не\u0301ти": "nI2t;'i"}) == "[[n'et;i]]"
    assert russian.with_stress("де\u0301та", {"де\u0301та": "d;It'A"}) == "[[d;'Eta#]]"


@pytest.mark.parametrize("text", ["{} минута", "{},5", "{} руб.", "{}-5", "{}/2", "5.{}"])
def test_numbers_may_be_longer_than_python_converts(text):
    digits = "1" * 5000
    assert digits[:4990] in write_out(text.format(digits), "russian")


@pytest.mark.parametrize("language", LANGUAGE_CODES)
@given(text=st.text("0123456789 .,-–/+$€₽°%()абвгАБXIVх\u0301@:²", max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_text_is_written_out_and_keeps_its_plain_words(language, text):
    written = written_out(f"слово {text} word", language)
    assert written.startswith("слово")
    assert written.endswith("word")
