// HTTP client of the service: sends requests, reads errors, and writes a request as a curl command.

// The page lies one level below the routes, behind whatever prefix a proxy adds.
const ROOT = new URL("..", document.baseURI);

export const DEFAULT_RATE_HZ = 24000;
// Without max_length a stream ends after 1000 frames (80 s), which a text of this many
// characters cannot reach in any language.
const SURELY_SHORT_CHARS = 300;
const LONGEST_FRAMES = 4096;

/** A refusal, with what the server said about it. */
export class Refusal extends Error {
  constructor(status, { code, message, param } = {}, retryAfterS = null) {
    super(message || "");
    Object.assign(this, { status, code, param: param ?? null, retryAfterS });
  }
}

/** Await, and name a failure by `what`; a wanted abort keeps its own name. */
export async function withReason(promise, what) {
  try {
    return await promise;
  } catch (cause) {
    throw cause.name === "AbortError" ? cause : new Error(what, { cause });
  }
}

/** The fields both routes share; what was left empty is not sent. */
export function sharedBody(form) {
  const attributes = dropEmpty({ gender: form.gender, age: form.age, emotion: form.emotion });
  return dropEmpty({
    text: form.text,
    normalize: form.normalize,
    pronunciations: orNull(form.pronunciations),
    on_unspeakable: form.onUnspeakable,
    temperature: form.temperature,
    speaker: form.speaker,
    voice_attributes: orNull(attributes),
    language: form.language,
    instruct: form.instruct,
    seed: form.seed,
  });
}

const orNull = (fields) => (Object.keys(fields).length ? fields : null);

function dropEmpty(fields) {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => (value ?? "") !== ""),
  );
}

/** The request that gives `format`, streamed or whole. */
export function requestFor(body, format, isStream) {
  if (!isStream) return { path: "tts", body: { ...body, format } };
  const isLong = (body.text ?? "").length > SURELY_SHORT_CHARS;
  return {
    path: "stream-tts",
    body: { ...body, format, ...(isLong ? { max_length: LONGEST_FRAMES } : {}) },
  };
}

/** Send a request; gives the response once its headers are here, or throws a Refusal. */
export async function send({ path, body }, { key, signal }) {
  const sending = fetch(new URL(path, ROOT), {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify(body),
    signal,
  });
  const response = await withReason(sending, "unreachable");
  if (!response.ok) throw await refusalIn(response);
  return response;
}

const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function refusalIn(response) {
  const body = await response.json().catch(() => null);
  const retryAfterS = Number.parseInt(response.headers.get("Retry-After"), 10) || null;
  return new Refusal(response.status, body?.error, retryAfterS);
}

/** The speakers that can be asked for by name; throws a Refusal where there is no such list. */
export async function fetchVoices(key) {
  const response = await fetch(new URL("v1/audio/voices", ROOT), { headers: authorization(key) });
  if (!response.ok) throw await refusalIn(response);
  const { voices } = await response.json();
  return voices ?? [];
}

/** Keep a voice under a name; gives what the server says of it, or throws a Refusal. */
export function keepVoice(fields, key) {
  const body = new FormData();
  for (const [field, value] of Object.entries(dropEmpty(fields))) body.set(field, value);
  return changeVoices("v1/audio/voices", { method: "POST", body }, key);
}

export const deleteVoice = (name, key) =>
  changeVoices(`v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" }, key);

async function changeVoices(path, request, key) {
  const sending = fetch(new URL(path, ROOT), { ...request, headers: authorization(key) });
  const response = await withReason(sending, "unreachable");
  if (!response.ok) throw await refusalIn(response);
  return response.json();
}

/** What the service says of itself: {ready, kind, sampleRateHz, speakers, canClone, progress}. */
export async function fetchHealth() {
  const response = await fetch(new URL("health", ROOT));
  const health = await response.json();
  return {
    ready: response.ok,
    kind: health.kind ?? "",
    sampleRateHz: health.sampling_rate ?? DEFAULT_RATE_HZ,
    speakers: health.speakers ?? [],
    canClone: health.voice_cloning ?? false,
    progress: health.progress ?? 0,
  };
}

export function isAudio(response) {
  return /^(audio\/|application\/octet-stream)/.test(response.headers.get("Content-Type") ?? "");
}

// Set for browsers and proxies, and no news to a listener.
const NOT_FACTS = new Set([
  "x-accel-buffering",
  "x-bentoml-request-id",
  "x-content-type-options",
  "x-frame-options",
]);

/** What the server says about the speech: [name, value] of every X- header. */
export function factsOf(response) {
  return [...response.headers]
    .filter(([name]) => name.startsWith("x-") && !NOT_FACTS.has(name))
    .map(([name, value]) => [name, readable(value)]);
}

function readable(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** The request as a command line; the key stays out of it. */
export function curlCommand({ path, body }, { hasKey }) {
  return [
    `curl -X POST ${new URL(path, ROOT)}`,
    `-H "Content-Type: application/json"`,
    ...(hasKey ? [`-H "Authorization: Bearer $API_KEY"`] : []),
    `-d ${quoted(JSON.stringify(body))}`,
    `--output speech.${body.format}`,
  ].join(" \\\n  ");
}
