"""Draw figures of scripts/bench_engine.py as an SVG: audio made in a second, by streams.

    .venv/bin/python scripts/plot_bench.py OUT.svg "half, float32 codec=half.json" ...

Each argument is a name and the file that `--json` wrote. Every file's reference, if it has one,
is drawn as well, once.
"""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 360, 56, 48, 24
COLOURS = ("#2563eb", "#16a34a", "#d97706", "#7c3aed", "#6b7280")
FRAME_S = 0.08

Line = tuple[str, list[tuple[int, float]]]


def read(arguments: list[str]) -> list[Line]:
    """The lines to draw: a name, and streams with audio-seconds per second."""
    lines: list[Line] = []
    references: dict[int, float] = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        result = json.loads(Path(path).read_text())
        lines.append(
            (name, [(r["batch"], r["batch"] * FRAME_S * 1e3 / r["step"]) for r in result["rows"]])
        )
        references |= {r["batch"]: r["audio_s_per_s"] for r in result.get("references", [])}
    if references:
        lines.append(("official package, float32", sorted(references.items())))
    return lines


def draw(lines: list[Line]) -> str:
    """The SVG; streams on a scale of doublings, audio from zero."""
    most = max(value for _, points in lines for _, value in points) * 1.1
    steps = sorted({batch for _, points in lines for batch, _ in points})

    def x(batch: int) -> float:
        place = (batch.bit_length() - 1) / max(1, steps[-1].bit_length() - 1)
        return LEFT + place * (WIDTH - LEFT - 24)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    parts += [
        f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - 24}" stroke="#ddd"/>'
        f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>'
        for tick in range(int(most) + 1)
    ]
    parts += [
        f'<text x="{x(b):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{b}</text>'
        for b in steps
    ]
    for index, (name, points) in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        path = "L".join(f"{x(b):.1f} {y(v):.1f}" for b, v in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(b):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for b, v in points
        ]
        parts.append(
            f'<text x="{LEFT + 12}" y="{TOP + 14 + 16 * index}" fill="{colour}">{name}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "streams at once; upwards: seconds of audio made in a second</text></svg>"
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Read the files and write the picture."""
    out, *arguments = sys.argv[1:]
    Path(out).write_text(draw(read(arguments)))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
