// Pronunciations as a person types them: one "word = reading" a line. It knows no elements.

/** {entries: {word: reading}, wrong: {n, line} of the first line without "=", or null}. */
export function readPronunciations(typed) {
  const lines = typed
    .split("\n")
    .map((line, index) => ({ n: index + 1, line: line.trim() }))
    .filter(({ line }) => line);
  const entries = lines.filter(({ line }) => line.includes("=")).map(({ line }) => entryOf(line));
  const wrong = lines.find(({ line }) => !line.includes("="));
  return { entries: Object.fromEntries(entries), wrong: wrong ?? null };
}

function entryOf(line) {
  const end = line.indexOf("="); // a reading may hold more of them
  return [line.slice(0, end).trim(), line.slice(end + 1).trim()];
}
