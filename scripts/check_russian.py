#!/usr/bin/env python3
"""Score the Russian normalisation on `tests/data/russian_cases.tsv`, category by category.

Prints the table and the list of failures that `docs/russian.md` contains; `--write` puts them
there. A reading is right if it has the words of one of the readings in the file, whatever the
case and the punctuation.
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen_tts_service.text.normalise import normalise

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "data" / "russian_cases.tsv"
DOCUMENT = ROOT / "docs" / "russian.md"
BEGIN, END = "<!-- figures: scripts/check_russian.py --write -->\n", "<!-- end of figures -->\n"

_CHOICE = re.compile(r"\{([^}]*)\}")
_WORDS = re.compile(r"[\w\u0301]+|\+\+|[+&£¥@]")


@dataclass(frozen=True)
class Case:
    """A text and every right way to read it."""

    category: str
    text: str
    readings: frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Result:
    """A case and what was made of its text."""

    case: Case
    said: str

    @property
    def is_right(self) -> bool:
        return words(self.said) in self.case.readings


def words(reading: str) -> tuple[str, ...]:
    """The words of a reading, for comparing: without case and punctuation."""
    return tuple(_WORDS.findall(reading.lower()))


def load_cases() -> list[Case]:
    """Read the file of cases."""
    rows = (line.split("\t") for line in CASES.read_text("utf-8").splitlines() if line[:1] != "#")
    return [Case(category, text, frozenset(_expand(reading))) for category, text, reading in rows]


def _expand(reading: str) -> Iterator[tuple[str, ...]]:
    """Every combination of the alternatives in "{a|b}"; one level may stand within another."""
    parts = _CHOICE.split(re.sub(r"\{([^{}]*)\{([^{}]*)\}([^{}]*)\}", _flatten, reading))
    for chosen in itertools.product(*(part.split("|") for part in parts[1::2])):
        pairs = itertools.zip_longest(parts[::2], chosen, fillvalue="")
        yield words("".join(itertools.chain.from_iterable(pairs)))


def _flatten(nested: re.Match[str]) -> str:
    before, inner, after = nested.groups()
    first, _, start = before.rpartition("|")
    end, _, rest = after.partition("|")
    alternatives = [first, *(start + choice + end for choice in inner.split("|")), rest]
    return "{" + "|".join(filter(None, alternatives)) + ("|}" if after.endswith("|") else "}")


def run(read: Callable[[str], str]) -> list[Result]:
    """Read every case."""
    return [Result(case, read(case.text)) for case in load_cases()]


def figures(results: list[Result]) -> dict[str, tuple[int, int]]:
    """How many are right, of how many, in each category."""
    counts: dict[str, tuple[int, int]] = {}
    for result in results:
        right, total = counts.get(result.case.category, (0, 0))
        counts[result.case.category] = (right + result.is_right, total + 1)
    return counts


def report(results: list[Result]) -> str:
    """The table and the failures, in Markdown."""
    counts = figures(results)
    lines = ["| Category | Right | Of |", "|---|--:|--:|"]
    lines += [f"| {name} | {right} | {total} |" for name, (right, total) in counts.items()]
    lines.append(f"| all | {sum(r.is_right for r in results)} | {len(results)} |")
    lines += ["", "Failures:", ""]
    lines += [
        f'* {r.case.category}: `{r.case.text}` is read "{r.said}"'
        for r in results
        if not r.is_right
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the report, or write it into the document."""
    found = report(run(lambda text: normalise(text, "full", "russian")))
    if "--write" not in sys.argv:
        print(found)
        return
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
