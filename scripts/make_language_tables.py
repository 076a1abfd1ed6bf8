"""Make the tables by which `text/language.py` tells the six Latin-script languages apart.

    pip install scipy wordfreq django wagtail
    python scripts/make_language_tables.py
    python scripts/make_language_tables.py --missed

latin_words.txt: everyday words with their logarithmic frequency in each language, from wordfreq's
small lists (data under CC BY-SA 4.0) and, for the words of user interfaces, from the translations
of Django and Wagtail (BSD). latin_ngrams.txt: weights of letter n-grams for words that are not in
it, by multinomial logistic regression. Words that the n-grams already place are left out.
"""

import argparse
import gettext
import importlib.util
import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent.parent / "src" / "qwen_tts_service" / "text"
CODES = ("en", "de", "fr", "es", "it", "pt")
UI_LOCALES = {"es": ("es", "es_AR", "es_MX"), "pt": ("pt_BR", "pt", "pt_PT")}
UI_SHARE = 0.15
RANKS = {"en": 5000, "de": 8000, "fr": 8000, "es": 9000, "it": 9000, "pt": 10000}
"""Words per language: more where languages are alike."""
MISSED_RANKS, LEAST_SHARE = 60_000, 8e-7
LEAST_FREQUENCY = 1e-7
WORD_STEP, NGRAM_STEP, NGRAM_ZERO = 0.5, 0.25, 18
MAX_NGRAM, NGRAMS, TRAINING_WORDS = 5, 3500, 22000
RELIABLE = 2.5
"""Nats by which the n-grams must be right for a word to be left out."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[a-zà-öø-ÿœß]+(?:'[a-zà-öø-ÿœß]+)*'?")
Table = NDArray[np.float64]
PLACEHOLDER = re.compile(r"%\(\w+\)\w|%\w|\{[^}]*\}|<[^>]*>|https?://\S+")


def interface_words(code: str) -> dict[str, float]:
    """Return the share of each word in short messages; a short message weighs as a long one."""
    counts: Counter[str] = Counter()
    seen = set()
    for package in ("django", "wagtail"):
        root = Path(importlib.util.find_spec(package).origin).parent
        for locale in UI_LOCALES.get(code, ("de" if code == "en" else code,)):
            for path in root.rglob(f"locale/{locale}/LC_MESSAGES/*.mo"):
                with path.open("rb") as file:
                    catalogue = gettext.GNUTranslations(file)._catalog  # noqa: SLF001
                for key, value in catalogue.items():
                    source = key[0] if isinstance(key, tuple) else key
                    text = source if code == "en" else value
                    if source and (locale, text) not in seen:
                        seen.add((locale, text))
                        words = WORD.findall(PLACEHOLDER.sub("", text.lower().replace("’", "'")))
                        counts.update({w: n / len(words) for w, n in Counter(words).items()})
    total = sum(counts.values())
    return {word: count / total for word, count in counts.items()}


def frequencies(code: str) -> Counter[str]:
    """Return the frequency of each word of a language; ß counts as ss."""
    from wordfreq import get_frequency_dict  # noqa: PLC0415 - not installed with the service

    mixed: Counter[str] = Counter()
    for share, words in (
        (1 - UI_SHARE, get_frequency_dict(code, wordlist="small")),
        (UI_SHARE, interface_words(code)),
    ):
        for word, frequency in words.items():
            if WORD.fullmatch(word):
                mixed[word.replace("ß", "ss")] += share * frequency
    return mixed


def ngrams_of(word: str) -> set[str]:
    """Return the letter n-grams of a word between ^ and $."""
    framed = f"^{word}$"
    sizes = range(1, MAX_NGRAM + 1)
    return {framed[i : i + n] for n in sizes for i in range(len(framed) - n + 1)} - {"^", "$"}


def fit(features: Any, labels: list[int], weights: Table, start: Table, iterations: int) -> Table:
    """Fit a multinomial logistic regression with an L2 penalty; returns float [features, 6]."""
    from scipy.optimize import minimize  # noqa: PLC0415

    wanted = np.eye(len(CODES))[labels]

    def loss(flat: Table) -> tuple[float, Table]:
        table = flat.reshape(-1, len(CODES))
        logits = features @ table
        logits -= logits.max(1, keepdims=True)
        found = np.exp(logits)
        found /= found.sum(1, keepdims=True)
        value = -(weights * np.log((found * wanted).sum(1) + 1e-12)).sum() + 1e-5 * (table**2).sum()
        slope = features.T @ ((found - wanted) * weights[:, None]) + 2e-5 * table
        return value, slope.ravel()

    options = {"maxiter": iterations}
    done = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    table = done.x.reshape(-1, len(CODES))
    return table - table.mean(1, keepdims=True)


def train_ngrams(lists: list[Counter[str]]) -> dict[str, Table]:
    """Return n-gram -> six weights; unimportant n-grams are dropped and the rest fitted again."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    words, labels, weights = [], [], []
    for label, frequency in enumerate(lists):
        top = [word for word, _ in frequency.most_common(TRAINING_WORDS)]
        share = np.array([frequency[word] for word in top]) ** 0.4  # unknown words are rare words
        words += top
        labels += [label] * len(top)
        weights += list(share / share.sum())
    numbers, rows, columns = {}, [], []
    for row, word in enumerate(words):
        for ngram in sorted(ngrams_of(word)):
            rows.append(row)
            columns.append(numbers.setdefault(ngram, len(numbers)))
    shape = (len(words), len(numbers))
    features = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    weights, names = np.array(weights), np.array(list(numbers), dtype=object)
    kept = np.flatnonzero(np.asarray(features.sum(0)).ravel() >= 25)
    table = np.zeros((len(kept), len(CODES)))
    for size, iterations in ((len(kept), 35), (3 * NGRAMS, 20), (NGRAMS, 50)):
        features, names = features[:, kept], names[kept]
        table = fit(features, labels, weights, table, iterations)
        mass = np.asarray(features.multiply(weights[:, None]).sum(0)).ravel()
        smaller = 3 * NGRAMS if size > 3 * NGRAMS else NGRAMS
        kept = np.argsort(-np.abs(table).max(1) * np.sqrt(mass + 1e-7))[:smaller]
        table = table[kept] if size > NGRAMS else table
    return dict(zip(names, table, strict=True))


def margin(values: Table) -> tuple[int, float]:
    """Return which value is the largest, and by how much."""
    order = np.argsort(values)
    return int(order[-1]), float(values[order[-1]] - values[order[-2]])


def choose_words(lists: list[Counter[str]], ngrams: dict[str, Table]) -> dict[str, str]:
    """Return word -> six levels, for the everyday words that the n-grams do not place."""
    chosen = {}
    ranks = zip(lists, RANKS.values(), strict=True)
    for word in set().union(*(dict(f.most_common(rank)) for f, rank in ranks)):
        levels = levels_of(word, lists)
        by_word, is_clear = margin(np.array([DIGITS.index(d) for d in levels]) * WORD_STEP)
        weights = [ngrams[n] for n in ngrams_of(word) if n in ngrams]
        by_ngram, is_reliable = margin(np.sum(weights, axis=0)) if weights else (-1, 0.0)
        if by_word != by_ngram or is_reliable < RELIABLE or is_clear < 1:
            chosen[word] = levels
    return chosen


def levels_of(word: str, lists: list[Counter[str]]) -> str:
    """Return the logarithmic frequency of a word in each language, as digits."""
    logs = [math.log(1 + f[word] / LEAST_FREQUENCY) for f in lists]
    return "".join(DIGITS[min(len(DIGITS) - 1, round(log / WORD_STEP))] for log in logs)


def missed_words(lists: list[Counter[str]]) -> dict[str, str]:
    """Return word -> six levels, for words of one language that the written tables misplace."""
    from qwen_tts_service.text.latin import LATIN_LANGUAGES, detect_latin  # noqa: PLC0415

    missed = {}
    for language, frequency in zip(LATIN_LANGUAGES, lists, strict=True):
        for word, share in frequency.most_common(MISSED_RANKS):
            is_of_one = 10 * sorted(f[word] for f in lists)[-2] < share
            if share > LEAST_SHARE and is_of_one and detect_latin(word) != language:
                missed[word] = levels_of(word, lists)
    return missed


def write_words(chosen: dict[str, str]) -> None:
    """Write latin_words.txt."""
    by_levels = defaultdict(list)
    for word, levels in chosen.items():
        by_levels[levels].append(word)
    lines = [f"{levels} {' '.join(sorted(words))}\n" for levels, words in sorted(by_levels.items())]
    (FOLDER / "latin_words.txt").write_text("".join(lines), "utf-8")


def read_words() -> dict[str, str]:
    """Read latin_words.txt as it has been written."""
    lines = (line.split() for line in (FOLDER / "latin_words.txt").read_text("utf-8").splitlines())
    return {word: levels for levels, *words in lines for word in words}


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--missed", action="store_true", help="only add words that are misplaced")
    is_addition = parser.parse_args().missed
    lists = [frequencies(code) for code in CODES]
    if is_addition:
        write_words(read_words() | missed_words(lists))
        return
    ngrams = train_ngrams(lists)
    write_words(choose_words(lists, ngrams))
    by_digits = {}
    for ngram, weights in ngrams.items():
        steps = [round(float(w) / NGRAM_STEP) + NGRAM_ZERO for w in weights]
        by_digits[ngram] = "".join(DIGITS[min(max(step, 0), len(DIGITS) - 1)] for step in steps)
    lines = [f"{digits} {ngram}\n" for ngram, digits in sorted(by_digits.items())]
    (FOLDER / "latin_ngrams.txt").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
