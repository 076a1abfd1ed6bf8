// The server's reasons in Russian. The server says them in English; what is not in this table is
// shown as it came. It knows sentences, not requests.

import { isKnown, pageLanguage, say } from "./i18n.js";

const RUSSIAN = {
  "text is empty; give at least one word": "текст пуст; напишите хотя бы слово",
  "give exactly one of text and tokens": "напишите текст",
  "text has {n} characters; at most {limit} are allowed (MAX_TEXT_CHARS)":
    "знаков в тексте: {n}; сервер берёт не больше {limit} (MAX_TEXT_CHARS)",
  "the body is larger than {limit} bytes ({settings})":
    "запрос больше {limit} байт ({settings})",
  "{field}: must be at least {limit}; got {value}": "{field}: не меньше {limit}, а послано {value}",
  "{field}: must be at most {limit}; got {value}": "{field}: не больше {limit}, а послано {value}",
  "{field}: must be a whole number; got {value}": "{field}: нужно целое число, а послано {value}",
  "{field}: must have at most {limit} characters; got {n}":
    "{field}: знаков {n}, а можно не больше {limit}",
  "speaker {value} is unknown; this model has {names}":
    "диктора {value} нет; у этой модели есть {names}",
  "speaker {value} is not known; known speakers: {names}": "диктора {value} нет; есть {names}",
  "text names the voice {value}:": "в тексте назван голос {value}:",
  "language is not one that this model speaks; known: {names}":
    "на этом языке модель не говорит; она знает {names}",
  "emotion has no letter; write it as a word": "в эмоции нет ни одной буквы; назовите её словом",
  "instruct leaves no room within MAX_POSITIONS":
    "указание так длинно, что для речи нет места (MAX_POSITIONS)",
  "the model did not find an end for this text; try another seed, a higher temperature or a longer text":
    "попробуйте другое зерно, температуру выше или текст подлиннее",
  "the speech took longer than REQUEST_TIMEOUT_S; send less text":
    "речь готовилась дольше, чем разрешает REQUEST_TIMEOUT_S; пошлите меньше текста",
  "the speech failed; the log has the details": "речь не получилась; подробности в журнале сервера",
  "{format} does not support {rate} Hz, only {rates} Hz":
    "{format} не бывает с частотой {rate} Гц, только {rates} Гц",
  "{level} for Russian needs the extra ru; run ./scripts/setup ru":
    "{level}: для русского на сервере нужен набор ru (./scripts/setup ru)",
  "the word is empty": "нет слова",
  "the reading is empty": "нет чтения",
  "the word has {n} characters; at most {limit}": "в слове знаков {n}, а можно не больше {limit}",
  "the reading has {n} characters; at most {limit}":
    "в чтении знаков {n}, а можно не больше {limit}",
  "(entry {word})": "(запись {word})",
  "{field}: must have at most {limit} entries; got {n}":
    "{field}: записей {n}, а можно не больше {limit}",

  "speaker was given and is {gender}": "назван диктор, и пол у него {gender}",
  "speaker was given and sounds another age": "назван диктор, а он звучит на другой возраст",
  "speaker was given": "назван диктор",
  "no speaker is neutral, so neutral means no preference":
    "нейтральных дикторов нет, поэтому пол может быть любым",
  "the gender of this speaker is not known": "пол этого диктора неизвестен",
  "the age of this speaker is not known": "возраст этого диктора неизвестен",
  "this model has no fitting {gender} speaker": "у модели нет подходящего диктора: {gender}",
  "no fitting speaker sounds this age": "нет подходящего диктора такого возраста",
  "this model does not follow instructions": "эта модель не слушает указаний",
  "instruct was given and takes its place": "вместо этого действует указание голосу",
  "speaker {value} cannot be had: this model has no speakers, it makes a voice of a description; send instruct, or gender, age and emotion":
    "диктора {value} нет: эта модель создаёт голос по описанию; опишите его указанием или полом, возрастом и эмоцией",
  "this model has no speakers; of this name only the gender is described":
    "дикторов у этой модели нет; от имени в описание взят только пол",
  "this model has no speakers, and the voice was described otherwise":
    "дикторов у этой модели нет, а голос описан иначе",
  "a cloned voice speaks as its recording does": "клонированный голос звучит как его запись",
  "this model speaks with cloned voices alone: name a kept one in speaker, or send ref_audio":
    "эта модель говорит только клонированными голосами: назовите сохранённый или пришлите запись",
  "speaker {value} is unknown; kept voices: {names}":
    "голоса {value} нет; сохранены {names}",
  "a text that is still being written is spoken without the voice's recording":
    "текст, который ещё пишется, произносится без записи голоса",
  "this voice was made by another model": "этот голос сделан другой моделью",
  "the recording is not audio that can be read; send wav, flac, ogg, mp3 or what else libsndfile reads":
    "запись не читается как звук; подойдут wav, flac, ogg, mp3",
  "the recording is shorter than {n} s; 5 to 15 s are best":
    "запись короче {n} с; лучше всего от 5 до 15 с",
  "the recording is longer than {n} s; 5 to 15 s are best":
    "запись длиннее {n} с; лучше всего от 5 до 15 с",
  "the recording is silent":
    "в записи тишина",
  "the recording is clipped: record it less loud":
    "запись перегружена: запишите тише",
  "ref_text has {n} letters for a second of the recording, and {least} to {most} are usual in {language}: unless it is exactly what is said, all of it and no more, the speech may not end":
    "букв на секунду записи: {n}, а обычно от {least} до {most} ({language}); если текст не совпадает с записью слово в слово, речь может не кончиться",
  "name must be 1 to 64 Latin letters, digits, dots, hyphens and underscores, and begin with a letter or digit; got {value}":
    "имя — от 1 до 64 латинских букв, цифр, точек, дефисов и подчёркиваний, в начале буква или цифра",
  "name {value} is that of a built-in voice":
    "имя {value} занято встроенным голосом",
  "there is a voice {value} already; delete it first":
    "голос {value} уже есть; сначала удалите его",
  "this model cannot clone voices; MODEL_NAME=Qwen3-TTS-12Hz-1.7B-Base and Qwen3-TTS-12Hz-0.6B-Base can":
    "эта модель не клонирует голоса; это умеют MODEL_NAME=Qwen3-TTS-12Hz-1.7B-Base и Qwen3-TTS-12Hz-0.6B-Base",
  "it is kept as a recording: a server with a Base model and this VOICES_PATH speaks with it, and this one makes another voice of every description":
    "голос сохранён как запись: им говорит сервер с моделью Base и тем же VOICES_PATH, а этот каждый раз делает новый голос по описанию",
  "the kept voice {value} is of a model of another size, and cannot be encoded anew: its recording was not kept, or VOICES_PATH cannot be written. Delete it, and keep it again from its recording":
    "голос {value} сохранён моделью другого размера и не переделывается: его записи нет, или VOICES_PATH не открыт для записи; удалите его и сохраните заново",
  "the embedded voice does not follow instructions": "встроенный голос не слушает указаний",
  "the embedded voice does not know this emotion; it knows {names}":
    "встроенный голос не знает этой эмоции; он знает {names}",

  "the text takes about {n} s and max_length allows {limit} s: its end will probably be missing":
    "речь займёт около {n} с, а max_length разрешает {limit} с: конца, скорее всего, не будет",
  "text has no letter or digit to speak": "в тексте нет ни букв, ни цифр: читать нечего",
  "text without a reading was replaced by {n} s of silence":
    "вместо текста, который нельзя прочесть, — {n} с тишины",
  "text has letters that the embedded voice cannot read: {letters}. Write these words in letters of one of the ten languages":
    "встроенный голос не умеет читать буквы {letters}: запишите эти слова буквами одного из десяти языков",
  "words in {name} letters are read by espeak-ng's {name2}":
    "слова с буквами другого языка читает голос espeak-ng для него ({name})",
  "letters that Russian lacks ({codes}) are read as Russian sounds":
    "буквы, которых нет в русском ({codes}), читаются как русские звуки",
  "the pitch was limited to what the embedded voice has":
    "выше и ниже встроенный голос не умеет: высота ограничена",
  "normalize: there are no full rules for {language}; light was applied":
    "normalize: полных правил нет, взяты лёгкие (язык: {language})",
};

const escaped = (text) => text.replace(/[.*+?^$()|[\]\\]/g, String.raw`\$&`);

// Several reasons may come in one line, with "; " between them: no value holds a semicolon.
function patternOf(english) {
  const ending = english.endsWith("}") ? "[^;]+" : "[^;]+?";
  const last = english.lastIndexOf("{");
  const value = (_whole, name, at) => `(?<${name}>${at >= last ? ending : "[^;]+?"})`;
  return new RegExp(escaped(english).replace(/\{(\w+)\}/g, value), "g");
}

// The longest first: some sentences begin others.
const TABLE = Object.entries(RUSSIAN)
  .sort(([a], [b]) => b.length - a.length)
  .map(([english, russian]) => [patternOf(english), russian]);

/** A value in the page's words, if it is a field, a gender or a language. */
function wordOf(value) {
  const name = value.split(".").pop();
  const key = [name, `gender.${name}`, `language.${name}`].find(isKnown);
  return key ? say(key).toLowerCase() : value;
}

/** A reason of the server in the page's language, as far as it is known. */
export function sayReason(message) {
  if (pageLanguage() !== "ru") return message;
  let said = message;
  for (const [pattern, russian] of TABLE)
    said = said.replace(pattern, (...found) => {
      const values = found.at(-1);
      const word = (whole, name) => (values[name] ? wordOf(values[name]) : whole);
      return russian.replace(/\{(\w+)\}/g, word);
    });
  return said.replace(/(^|; )(\w+)(?=: )/g, (_whole, before, name) => before + wordOf(name));
}
