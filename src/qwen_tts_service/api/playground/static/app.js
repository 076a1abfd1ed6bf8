// The page itself: reads the form, runs one take at a time and shows what happens. Everything
// that can be done without the page's elements lives in the other files.

import { EXAMPLES } from "./examples.js";
import {
  choosePageLanguage,
  isKnown,
  pageLanguage,
  say,
  sayCount,
  sayNumber,
  translate,
} from "./i18n.js";
import { wakeSound } from "./player.js";
import { Recorder, readable } from "./recorder.js";
import { readPronunciations } from "./pronunciations.js";
import { sayReason } from "./reasons.js";
import {
  DEFAULT_RATE_HZ,
  Refusal,
  curlCommand,
  deleteVoice,
  fetchHealth,
  fetchVoices,
  keepVoice,
  requestFor,
  sharedBody,
} from "./service.js";
import { Take } from "./take.js";
import { Waveform } from "./waveform.js";

const CHOICES = {
  gender: ["", "female", "male", "neutral"],
  emotion: [
    ...["", "neutral", "happy", "sad", "angry", "fearful", "surprised", "disgusted"],
    ...["excited", "calm", "serious", "friendly", "whisper"],
  ],
  language: [
    ...["", "chinese", "english", "japanese", "korean", "german"],
    ...["french", "russian", "portuguese", "spanish", "italian"],
  ],
};
const RATES_HZ = [8000, 16000, 22050, 24000, 44100, 48000];
const FACT_ORDER = ["x-voice", "x-language", "x-model", "x-seed", "x-voice-applied"];
const FACT_ORDER_LAST = ["x-ai-generated", "x-finish-reason", "x-audio-seconds", "x-request-id"];
const KEY_KEPT_UNDER = "qwen-tts-api-key";
const LOADING_POLL_MS = 2000;
const STILL_REDRAW_MS = 500;

const at = (id) => document.getElementById(id);
const form = at("form");
const waveform = new Waveform(at("waveform"));
const wantsStillness = matchMedia("(prefers-reduced-motion: reduce)");

let take = null;
let isSpeaking = false;
let status = ["status.idle", {}];
let failure = null;
let voices = [];
let isVoiceListLocked = false;
let kind = "";
let recorder = null;
let recording = null;
let sampleRateHz = DEFAULT_RATE_HZ;

// The form ------------------------------------------------------------------------------

function readWish() {
  const { text, speaker, gender, age, emotion, language, temperature, instruct, seed } =
    form.elements;
  const { normalize, pronunciations, on_unspeakable: onUnspeakable } = form.elements;
  const isNamed = speaker.value !== "" || isDescribed();
  return {
    text: text.value,
    normalize: normalize.value,
    pronunciations: readPronunciations(pronunciations.value).entries,
    onUnspeakable: onUnspeakable.value,
    speaker: speaker.value,
    gender: isNamed ? "" : gender.value,
    age: isNamed ? null : numberIn(age),
    emotion: isDescribed() ? "" : emotion.value,
    language: language.value,
    temperature: Number(temperature.value),
    instruct: instruct.value.trim(),
    seed: numberIn(seed),
    speed: Number(form.elements.speed.value),
    sampleRate: numberIn(form.elements.sample_rate),
    leadInMs: numberIn(form.elements.lead_in_ms),
    tailMs: numberIn(form.elements.tail_ms),
    split: form.elements.split.value,
    timestamps: form.elements.timestamps.value,
  };
}

const numberIn = ({ value }) => (value === "" ? null : Number(value));

function showForm() {
  at("count").textContent = sayCount([...at("text").value].length);
  at("temperature-value").textContent = sayNumber(Number(at("temperature").value), 1);
  at("speed-value").textContent = sayNumber(Number(at("speed").value), 2);
  const isNamed = at("speaker").value !== "" || isDescribed();
  for (const id of ["gender", "age"]) at(id).disabled = isNamed;
  at("emotion").disabled = isDescribed();
  showCloning();
  at("download-label").textContent = say("download", { format: at("format").value.toUpperCase() });
  const request = requestFor(sharedBody(readWish()), at("format").value, at("stream").checked);
  at("curl").textContent = curlCommand(request, { hasKey: at("key").value !== "" });
}

function fillSelect(select, options) {
  const { value } = select;
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  if (options.some(([known]) => known === value)) select.value = value;
}

function showChoices() {
  for (const [name, values] of Object.entries(CHOICES))
    fillSelect(at(name), values.map((value) => [value, say(`${name}.${value || "none"}`)]));
  const rates = RATES_HZ.map((rateHz) => [String(rateHz), say("hertz", { n: sayNumber(rateHz) })]);
  fillSelect(at("sample_rate"), [["", say("sample_rate.none")], ...rates]);
  const named = voices.map((voice) => [voice.id, voiceLabel(voice)]);
  const nobody = kind === "base" && named.length ? [] : [["", say("speaker.none")]];
  fillSelect(at("speaker"), [...nobody, ...named]);
  at("speaker-field").hidden = !voices.length || isDesign();
}

const isDesign = () => kind === "voice_design";
const isDescribed = () => isDesign() && at("instruct").value.trim() !== "";

/** What the loaded model has its voices from decides which fields there are, and where. */
function showKind() {
  for (const id of ["described", "emotion-field", "instruct-field"])
    at(id).hidden = kind === "base";
  for (const node of document.querySelectorAll(".of-recording")) node.hidden = isDesign();
  if (!isDesign()) return;
  at("settings-label").after(at("instruct-field"));
  at("instruct-label").dataset.i18n = "description";
  at("instruct").dataset.i18nPlaceholder = "descriptionExample";
  at("cloning-label").dataset.i18n = "design";
  translate(document);
  showForm();
}

function voiceLabel({ id, name, gender, language }) {
  const traits = [
    ["gender", gender],
    ["language", language],
  ];
  const known = traits.filter(([, value]) => typeof value === "string" && value);
  const words = known.map(([kind, value]) => translated(kind, value.toLowerCase()));
  return [name ?? id, words.join(", ").toLowerCase()].filter(Boolean).join(" · ");
}

const translated = (kind, value) => (isKnown(`${kind}.${value}`) ? say(`${kind}.${value}`) : value);

function showExamples() {
  const own = pageLanguage();
  const ordered = [...EXAMPLES].sort(([a], [b]) => (b === own) - (a === own));
  const buttons = ordered.map(([language, name, phrase]) => {
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      className: "chip",
      lang: language,
      textContent: name,
    });
    button.addEventListener("click", () => {
      Object.assign(at("text"), { value: phrase, lang: language });
      showForm();
      at("text").focus();
    });
    return button;
  });
  at("examples").replaceChildren(...buttons);
}

const firstPhrase = () => EXAMPLES.find(([language]) => language === pageLanguage())[2];

// What happens ----------------------------------------------------------------------------

function showStatus(key, values = {}) {
  status = [key, values];
  at("status").textContent = say(key, values);
}

function showNumbers() {
  const { firstAudioMs = null, realTimeFactor = null, audioS = 0, underruns = 0 } = take ?? {};
  const has = firstAudioMs !== null;
  at("first-audio").textContent = has ? sayDelay(firstAudioMs) : "–";
  at("real-time-factor").textContent = has ? sayFactor(realTimeFactor) : "–";
  at("duration").textContent = has ? say("seconds", { n: sayNumber(audioS, 1) }) : "–";
  at("underruns").textContent = has ? sayNumber(underruns) : "–";
}

const sayDelay = (ms) =>
  ms < 10_000
    ? say("milliseconds", { n: sayNumber(Math.round(ms)) })
    : say("seconds", { n: sayNumber(ms / 1000, 1) });

const sayFactor = (factor) => (factor < 0.005 ? `< ${sayNumber(0.01, 2)}` : sayNumber(factor, 2));

function showFacts() {
  const rank = ([name]) => {
    if (FACT_ORDER.includes(name)) return FACT_ORDER.indexOf(name);
    return 100 + FACT_ORDER_LAST.indexOf(name);
  };
  const facts = [...(take?.facts ?? [])].sort((a, b) => rank(a) - rank(b));
  at("facts").replaceChildren(...facts.map(factRow));
}

function factRow([name, value]) {
  const row = document.createElement("div");
  const term = document.createElement("dt");
  const detail = document.createElement("dd");
  term.textContent = isKnown(`fact.${name}`) ? say(`fact.${name}`) : name;
  detail.textContent = name === "x-language" ? translated("language", value) : sayReason(value);
  row.dataset.fact = name;
  row.append(term, detail);
  return row;
}

function showHeard() {
  at("heard").hidden = !take || (!take.facts.length && !take.hasAudio);
  at("replay").disabled = !take?.hasAudio || isSpeaking;
  at("download").disabled = isSpeaking && !take?.isReceived;
}

/** Show the text as it was sent, and mark what is heard now. */
function showSpoken() {
  const now = isSpeaking ? (take?.heardNow ?? null) : null;
  at("spoken").hidden = !now;
  if (!now || now === shownNow) return;
  shownNow = now;
  const chars = [...take.body.text]; // positions count code points
  const part = (start, end) => chars.slice(start, end).join("");
  const mark = document.createElement("mark");
  mark.textContent = part(now.start_char, now.end_char);
  at("spoken").replaceChildren(part(0, now.start_char), mark, part(now.end_char));
  at("spoken").scrollTop = mark.offsetTop - at("spoken").clientHeight / 2;
}

function setSpeaking(value) {
  const hadFocus = document.activeElement === at("stop");
  isSpeaking = value;
  at("stop").disabled = !value;
  document.body.classList.toggle("speaking", value);
  if (!value && hadFocus) at("speak").focus();
  shownNow = null;
  showSpoken();
  showHeard();
}

let shownNow = null;
let drawnAtMs = 0;

function drawWhileSpeaking(nowMs) {
  if (!isSpeaking) return;
  requestAnimationFrame(drawWhileSpeaking);
  if (wantsStillness.matches && nowMs - drawnAtMs < STILL_REDRAW_MS) return;
  drawnAtMs = nowMs;
  waveform.draw(take.heardS);
  showNumbers();
  showSpoken();
}

// Failures --------------------------------------------------------------------------------

function explain(error) {
  if (error instanceof Refusal) return explainRefusal(error);
  const { message, values, param } = error;
  if (isKnown(`error.${message}`)) return { title: [`error.${message}`, values], param };
  return { title: ["error.page"], detail: String(error) };
}

const NEAREST_CODE = { 400: "invalid_request", 401: "unauthorized", 422: "cannot_speak" };

function explainRefusal({ status, code, message, param, retryAfterS }) {
  const known = isKnown(`error.${code}`) ? code : NEAREST_CODE[status];
  const isWrongKey = status === 401 && at("key").value !== "";
  return {
    title: isWrongKey
      ? ["error.wrongKey"]
      : [known ? `error.${known}` : "error.http", { status }],
    detail: message,
    param,
    retryAfterS,
    asksKey: status === 401,
  };
}

function showFailure() {
  const { title, detail, param, retryAfterS } = failure ?? {};
  const lines = [];
  if (title) lines.push(["strong", say(...title)]);
  if (detail) lines.push(["p", sayReason(detail)]);
  if (param) lines.push(["p", say("error.param", { param })]);
  if (retryAfterS) lines.push(["p", say("error.retry", { n: retryAfterS })]);
  at("alert").hidden = !failure;
  at("alert").replaceChildren(
    ...lines.map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })),
  );
  const wrong = param?.split(".").pop();
  for (const field of form.elements) field.toggleAttribute("aria-invalid", false);
  if (!wrong || !form.elements[wrong]) return;
  form.elements[wrong].setAttribute("aria-invalid", "true");
  unfold(form.elements[wrong]);
}

/** A field that is wrong must be seen. */
function unfold(field) {
  const folded = field.closest("details");
  if (folded) folded.open = true;
}

function fail(error) {
  failure = explain(error);
  showFailure();
  showStatus("status.failed");
  if (!failure.asksKey) return;
  at("key-box").hidden = false;
  at("key").focus();
}

// Doing -----------------------------------------------------------------------------------

async function speak() {
  stop();
  failure = null;
  showFailure();
  keepKey();
  const { wrong } = readPronunciations(at("pronunciations").value);
  if (wrong) {
    fail(Object.assign(new Error("noEquals"), { values: wrong, param: "pronunciations" }));
    return;
  }
  const rateHz = numberIn(at("sample_rate")) ?? sampleRateHz;
  try {
    wakeSound(rateHz);
  } catch {
    fail(new Error("noSound"));
    return;
  }
  waveform.clear(rateHz);
  const mine = (take = makeTake(rateHz));
  showStatus("status.waiting");
  showFacts();
  setSpeaking(true);
  requestAnimationFrame(drawWhileSpeaking);
  try {
    await mine.run();
  } catch (error) {
    if (mine !== take || error.name === "AbortError") return;
    fail(error);
    if (!mine.hasAudio) setSpeaking(false);
  }
  if (mine === take) showAll();
}

function makeTake(sampleRateHz) {
  const made = new Take(
    {
      body: sharedBody(readWish()),
      format: at("format").value,
      isStream: at("stream").checked,
      key: at("key").value,
      sampleRateHz,
    },
    {
      facts: () => made === take && (showFacts(), showHeard()),
      audio: (samples) => made === take && hear(samples),
      received: () => made === take && finishReceiving(),
      ended: () => made === take && end(),
    },
  );
  return made;
}

function hear(samples) {
  if (status[0] === "status.waiting") showStatus("status.speaking");
  waveform.add(samples);
  showHeard();
}

function finishReceiving() {
  waveform.complete();
  at("key-box").hidden = at("key").value === "";
  if (isVoiceListLocked) loadVoices(voices);
  showHeard();
}

function end() {
  setSpeaking(false);
  if (failure === null) showStatus("status.finished");
  showAll();
}

function showAll() {
  showNumbers();
  waveform.draw(isSpeaking ? take.heardS : (take?.audioS ?? 0));
}

function stop() {
  if (!isSpeaking) return;
  const { heardS } = take;
  take.stop();
  waveform.complete();
  setSpeaking(false);
  showStatus("status.stopped");
  showNumbers();
  waveform.draw(heardS);
}

function replay() {
  take.replay();
  showStatus("status.speaking");
  setSpeaking(true);
  requestAnimationFrame(drawWhileSpeaking);
}

async function download() {
  const format = at("format").value;
  const name = `speech.${format}`;
  const before = status;
  showStatus("status.fetching");
  try {
    save(await take.fileAs(format), name);
    showStatus(...(isSpeaking ? before : ["status.saved", { name }]));
  } catch (error) {
    fail(error);
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // Firefox reads it after the click
}

async function copyCurl() {
  const said = (await isCopied(at("curl"))) ? "copied" : "copyFailed";
  at("copy").textContent = say(said);
  setTimeout(() => (at("copy").textContent = say("copy")), 2000);
}

/** Copy; where the page is on plain http there is no clipboard, only the old command. */
async function isCopied(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

// Cloned voices ---------------------------------------------------------------------------

const chosenKept = () =>
  voices.find(({ id, object }) => object === "audio.voice" && id === at("speaker").value);

function showCloning() {
  at("record").textContent = say(recorder ? "recordStop" : "record");
  at("recorded").textContent = recording ? say("recorded") : "";
  at("delete-voice").hidden = !chosenKept();
  at("delete-voice").textContent = say("deleteVoice", { name: at("speaker").value });
}

/** Do one step of cloning; what goes wrong is shown. */
async function tryTo(step) {
  failure = null;
  showFailure();
  keepKey();
  try {
    await step();
  } catch (error) {
    fail(error);
  }
  showCloning();
}

async function record() {
  if (recorder) {
    const ending = recorder.stop();
    recorder = null;
    recording = await ending;
    at("recording").value = "";
    showStatus("status.idle");
    return;
  }
  recorder = await Recorder.start();
  showStatus("status.recording");
}

async function cloned() {
  const [file] = at("recording").files;
  if (!file && !recording) throw wrongField("noRecording", "audio_sample");
  if (!at("consent").checked) throw wrongField("noConsent", "consent");
  showStatus("status.keeping");
  return {
    audio_sample: file ? await readable(file) : recording,
    ref_text: at("transcript").value,
    consent: say("consent"),
  };
}

/** The voice of the last take: the same words and seed make it again. */
function designed() {
  const { text, instruct, language, temperature, normalize, pronunciations } = take?.body ?? {};
  const seed = take?.facts.find(([name]) => name === "x-seed")?.[1];
  if (!instruct || seed === undefined) throw wrongField("noTake", "instruct");
  if (normalize || pronunciations) throw wrongField("noPlainTake", "normalize");
  showStatus("status.designing");
  return { description: instruct, ref_text: text, language, temperature, seed };
}

async function keep() {
  const fields = isDesign() ? designed() : await cloned();
  const voice = await keepVoice({ name: at("voice-name").value, ...fields }, at("key").value);
  recording = null;
  at("recording").value = "";
  await loadVoices(voices);
  at("speaker").value = voice.id;
  showForm();
  showStatus("status.kept", { name: voice.id });
  if (!voice.warning) return;
  failure = { title: ["status.kept", { name: voice.id }], detail: voice.warning };
  showFailure();
}

async function forget() {
  const { id } = chosenKept();
  await deleteVoice(id, at("key").value);
  await loadVoices(voices.filter((voice) => voice.id !== id));
  showForm();
  showStatus("status.deleted", { name: id });
}

const wrongField = (message, param) => Object.assign(new Error(message), { param });

// The key and what the server tells before anyone speaks -------------------------------------

function keepKey() {
  try {
    if (at("key").value) sessionStorage.setItem(KEY_KEPT_UNDER, at("key").value);
    else sessionStorage.removeItem(KEY_KEPT_UNDER);
  } catch {
    // Storage is forbidden: the key lives as long as the page.
  }
}

function recallKey() {
  try {
    at("key").value = sessionStorage.getItem(KEY_KEPT_UNDER) ?? "";
  } catch {
    at("key").value = "";
  }
  at("key-box").hidden = at("key").value === "";
}

async function loadVoices(fallback = []) {
  try {
    voices = await fetchVoices(at("key").value);
    isVoiceListLocked = false;
  } catch (error) {
    isVoiceListLocked = error.status === 401;
    voices = fallback;
  }
  showChoices();
}

async function meetService() {
  const health = await fetchHealth().catch(() => null);
  if (!health) return; // speaking will tell what is wrong
  sampleRateHz = health.sampleRateHz;
  at("cloning").hidden = !health.canClone;
  kind = health.kind;
  showKind();
  if (health.ready) {
    if (status[0] === "status.loading") showStatus("status.idle");
    await loadVoices(health.speakers.map((id) => ({ id })));
    return;
  }
  showStatus("status.loading", { n: Math.round(health.progress * 100) });
  setTimeout(meetService, LOADING_POLL_MS);
}

// Wiring ------------------------------------------------------------------------------------

function showEverything() {
  translate(document);
  for (const button of document.querySelectorAll("[data-page-language]"))
    button.setAttribute("aria-pressed", button.dataset.pageLanguage === pageLanguage());
  showChoices();
  showExamples();
  showForm();
  showStatus(...status);
  showNumbers();
  showFacts();
  showFailure();
}

function switchLanguage(language) {
  const wasUntouched = at("text").value === firstPhrase();
  choosePageLanguage(language);
  if (wasUntouched) at("text").value = firstPhrase();
  showEverything();
}

function onKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape") {
    stop();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
form.addEventListener("invalid", (event) => unfold(event.target), true);
form.addEventListener("input", showForm);
form.addEventListener("change", showForm); // autofill and drivers fire only this one
document.addEventListener("keydown", onKey);
at("stop").addEventListener("click", stop);
at("replay").addEventListener("click", replay);
at("download").addEventListener("click", download);
at("copy").addEventListener("click", copyCurl);
at("record").addEventListener("click", () => tryTo(record));
at("keep-voice").addEventListener("click", () => tryTo(keep));
at("delete-voice").addEventListener("click", () => tryTo(forget));
for (const button of document.querySelectorAll("[data-page-language]"))
  button.addEventListener("click", () => switchLanguage(button.dataset.pageLanguage));

recallKey();
at("text").value = firstPhrase();
showEverything();
waveform.draw();
meetService();
