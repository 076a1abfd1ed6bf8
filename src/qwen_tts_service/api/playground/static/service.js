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
    speed: form.speed === 1 ? null : form.speed,
    sample_rate: form.sampleRate,
    lead_in_ms: form.leadInMs,
    tail_ms: form.tailMs,
    split: form.split,
    timestamps: form.timestamps,
  });
}

const orNull = (fields) => (Object.keys(fields).length ? fields : null);

function dropEmpty(fields) {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => (value ?? "") !== ""),
  );
}

const EVENTS = "text/event-stream";
const JSON_TYPE = "application/json";

/** The request that gives `format`, streamed or whole; with times in events or in JSON. */
export function requestFor(body, format, isStream) {
  const accept = body.timestamps ? { accept: isStream ? EVENTS : JSON_TYPE } : {};
  if (!isStream) return { path: "tts", body: { ...body, format }, ...accept };
  const isLong = (body.text ?? "").length > SURELY_SHORT_CHARS;
  return {
    path: "stream-tts",
    body: { ...body, format, ...(isLong ? { max_length: LONGEST_FRAMES } : {}) },
    ...accept,
  };
}

/** Send a request; gives the response once its headers are here, or throws a Refusal. */
export async function send({ path, body, accept }, { key, signal }) {
  const headers = { "Content-Type": JSON_TYPE, ...(accept ? { Accept: accept } : {}) };
  const sending = fetch(new URL(path, ROOT), {
    method: "POST",
    headers: { ...headers, ...authorization(key) },
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

const contentType = (response) => response.headers.get("Content-Type") ?? "";

export const isAudio = (response) =>
  /^(audio\/|application\/octet-stream)/.test(contentType(response));
export const isEvents = (response) => contentType(response).startsWith(EVENTS);
export const isJson = (response) => contentType(response).startsWith(JSON_TYPE);

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

/** The events of a response one by one; throws a Refusal for an error among them. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await withReason(reader.read(), "broken");
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const data of events) {
      const event = JSON.parse(data.replace(/^data: /, ""));
      if (event.type === "error") throw new Refusal(500, event.error);
      yield event;
    }
  }
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
export function curlCommand({ path, body, accept }, { hasKey }) {
  const kind = { [EVENTS]: "events", [JSON_TYPE]: "json" }[accept] ?? body.format;
  return [
    `curl -X POST ${new URL(path, ROOT)}`,
    `-H "Content-Type: application/json"`,
    ...(accept ? [`-H "Accept: ${accept}"`] : []),
    ...(hasKey ? [`-H "Authorization: Bearer $API_KEY"`] : []),
    `-d ${quoted(JSON.stringify(body))}`,
    `--output speech.${kind}`,
  ].join(" \\\n  ");
}
