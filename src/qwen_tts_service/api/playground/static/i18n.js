// The texts of the page in English and Russian, and the choice of language.

const WORDS = {
  en: {
    title: "Playground · Qwen TTS",
    heading: "Playground",
    text: "Text",
    examples: "Examples",
    textOptions: "Text options",
    normalize: "Normalisation",
    on_unspeakable: "Text without a reading",
    pronunciations: "Pronunciations",
    pronunciationsNote: "word = reading, one a line",
    pronunciationsExample: "GPU = gee pee you",
    key: "API key",
    keyNote: "Kept until this tab is closed.",
    speak: "Speak",
    stop: "Stop",
    result: "Listen",
    waveform: "Waveform of the speech",
    firstAudio: "First audio",
    realTimeFactor: "Real-time factor",
    duration: "Duration",
    underruns: "Underruns",
    replay: "Play again",
    download: "Download {format}",
    voice: "Voice",
    speaker: "Speaker",
    cloning: "Clone a voice",
    recording: "Recording, 1 to 30 s of one person",
    record: "Record",
    recordStop: "Stop recording",
    recorded: "Recorded",
    transcript: "What is said in it, every word",
    voiceName: "Name",
    consent: "The person in the recording agrees to this voice",
    keepVoice: "Keep the voice",
    deleteVoice: "Delete {name}",
    gender: "Gender",
    age: "Age",
    emotion: "Emotion",
    language: "Language",
    temperature: "Temperature",
    output: "Output",
    format: "File format",
    stream: "Stream",
    streamNote: "plays while it is being made",
    timestamps: "Mark what is spoken",
    more: "More",
    instruct: "Instruction",
    instructExample: "Speak slowly and softly.",
    seed: "Seed",
    seedNone: "a new one each time",
    curl: "The same with curl",
    copy: "Copy",
    copied: "Copied",
    copyFailed: "Press Ctrl+C",

    "count.one": "{n} character",
    "count.other": "{n} characters",
    seconds: "{n} s",
    milliseconds: "{n} ms",

    "normalize.auto": "Auto",
    "normalize.none": "None: as it is written",
    "normalize.light": "Light: no markdown or emoji",
    "normalize.full": "Full: Russian numbers in words",
    "on_unspeakable.error": "Error",
    "on_unspeakable.silence": "Silence",
    "timestamps.none": "No",
    "timestamps.sentence": "Sentence by sentence",
    "timestamps.word": "Word by word",
    "speaker.none": "By description",
    "gender.none": "Any",
    "gender.female": "Female",
    "gender.male": "Male",
    "gender.neutral": "Neutral",
    "emotion.none": "As the text suggests",
    "emotion.neutral": "Neutral",
    "emotion.happy": "Happy",
    "emotion.sad": "Sad",
    "emotion.angry": "Angry",
    "emotion.fearful": "Fearful",
    "emotion.surprised": "Surprised",
    "emotion.disgusted": "Disgusted",
    "emotion.excited": "Excited",
    "emotion.calm": "Calm",
    "emotion.serious": "Serious",
    "emotion.friendly": "Friendly",
    "emotion.whisper": "Whisper",
    "language.none": "Auto",
    "language.auto": "Auto",
    "language.chinese": "Chinese",
    "language.english": "English",
    "language.japanese": "Japanese",
    "language.korean": "Korean",
    "language.german": "German",
    "language.french": "French",
    "language.russian": "Russian",
    "language.portuguese": "Portuguese",
    "language.spanish": "Spanish",
    "language.italian": "Italian",

    "status.idle": "Ready",
    "status.loading": "The model is loading: {n} %",
    "status.waiting": "Waiting for the first audio…",
    "status.speaking": "Speaking…",
    "status.finished": "Finished",
    "status.stopped": "Stopped",
    "status.failed": "Failed",
    "status.fetching": "Making the file…",
    "status.recording": "Recording…",
    "status.keeping": "Listening to the recording…",
    "status.kept": "Voice {name} is kept",
    "status.deleted": "Voice {name} is deleted",
    "status.saved": "Saved as {name}",

    "fact.x-voice": "Voice",
    "fact.x-language": "Language",
    "fact.x-model": "Model",
    "fact.x-seed": "Seed",
    "fact.x-voice-applied": "Applied",
    "fact.x-voice-not-applied": "Not applied",
    "fact.x-warning": "Note",
    "fact.x-finish-reason": "Ended by",
    "fact.x-audio-seconds": "Seconds",
    "fact.x-request-id": "Request",

    "error.invalid_request": "The request is not right",
    "error.cannot_speak": "This cannot be spoken",
    "error.no_reading": "There is nothing in the text that this voice can read",
    "error.runaway": "The model did not find the end of this text",
    "error.word_times_not_supported": "This voice does not tell where its words are",
    "error.unknown_speaker": "There is no such speaker",
    "error.unsupported_format": "This format cannot be made",
    "error.extra_missing": "The server lacks a package for this",
    "error.internal_error": "The server failed",
    "error.unauthorized": "The server asks for an API key",
    "error.wrongKey": "The API key is not right",
    "error.busy": "The server is busy",
    "error.not_ready": "The server is not ready yet",
    "error.timeout": "It took too long",
    "error.body_too_large": "The text is too long",
    "error.http": "The server answered {status}",
    "error.broken": "The connection broke: the speech is incomplete",
    "error.unreachable": "The server cannot be reached",
    "error.unplayable": "This browser cannot play this format; the file can be downloaded",
    "error.notAudio": "The answer is not audio",
    "error.noSound": "This browser cannot play sound",
    "error.noEquals": "Line {n} has no “=” between a word and its reading: {line}",
    "error.page": "The page failed",
    "error.noMicrophone": "There is no microphone, or it may not be used (on plain http it never may)",
    "error.notARecording": "This file cannot be read as sound",
    "error.noRecording": "Record something or choose a file",
    "error.noConsent": "The person in the recording must agree",
    "error.invalid_recording": "This recording cannot be cloned",
    "error.cloning_not_supported": "The loaded model cannot clone voices",
    "error.voice_exists": "There is a voice of this name already",
    "error.library_full": "No more voices can be kept",
    "error.param": "Field: {param}",
    "error.retry": "Try again in {n} s",
  },
  ru: {
    title: "Послушать · Qwen TTS",
    heading: "Послушать",
    text: "Текст",
    examples: "Примеры",
    textOptions: "Настройки текста",
    normalize: "Нормализация",
    on_unspeakable: "Текст без чтения",
    pronunciations: "Произношение",
    pronunciationsNote: "слово = чтение, по одному на строке",
    pronunciationsExample: "GPU = джи пи ю",
    key: "Ключ API",
    keyNote: "Хранится, пока открыта эта вкладка.",
    speak: "Произнести",
    stop: "Стоп",
    result: "Звук",
    waveform: "Форма звуковой волны",
    firstAudio: "До первого звука",
    realTimeFactor: "Доля реального времени",
    duration: "Длительность",
    underruns: "Разрывы звука",
    replay: "Ещё раз",
    download: "Скачать {format}",
    voice: "Голос",
    speaker: "Диктор",
    cloning: "Клонировать голос",
    recording: "Запись одного человека, от 1 до 30 с",
    record: "Записать",
    recordStop: "Остановить запись",
    recorded: "Записано",
    transcript: "Что в ней сказано, слово в слово",
    voiceName: "Имя",
    consent: "Человек в записи согласен на этот голос",
    keepVoice: "Сохранить голос",
    deleteVoice: "Удалить {name}",
    gender: "Пол",
    age: "Возраст",
    emotion: "Эмоция",
    language: "Язык",
    temperature: "Температура",
    output: "Вывод",
    format: "Формат файла",
    stream: "Поток",
    streamNote: "звучит, пока создаётся",
    timestamps: "Отмечать произносимое",
    more: "Ещё",
    instruct: "Указание голосу",
    instructExample: "Speak slowly and softly.",
    seed: "Зерно (seed)",
    seedNone: "каждый раз новое",
    curl: "То же через curl",
    copy: "Копировать",
    copied: "Скопировано",
    copyFailed: "Нажмите Ctrl+C",

    "count.one": "{n} знак",
    "count.few": "{n} знака",
    "count.many": "{n} знаков",
    "count.other": "{n} знака",
    seconds: "{n} с",
    milliseconds: "{n} мс",

    "normalize.auto": "Авто",
    "normalize.none": "Нет: как написано",
    "normalize.light": "Лёгкая: без разметки и эмодзи",
    "normalize.full": "Полная: русские числа словами",
    "on_unspeakable.error": "Ошибка",
    "on_unspeakable.silence": "Тишина",
    "timestamps.none": "Нет",
    "timestamps.sentence": "По предложениям",
    "timestamps.word": "По словам",
    "speaker.none": "По описанию",
    "gender.none": "Любой",
    "gender.female": "Женский",
    "gender.male": "Мужской",
    "gender.neutral": "Нейтральный",
    "emotion.none": "По смыслу текста",
    "emotion.neutral": "Нейтрально",
    "emotion.happy": "Радость",
    "emotion.sad": "Грусть",
    "emotion.angry": "Гнев",
    "emotion.fearful": "Страх",
    "emotion.surprised": "Удивление",
    "emotion.disgusted": "Отвращение",
    "emotion.excited": "Воодушевление",
    "emotion.calm": "Спокойствие",
    "emotion.serious": "Серьёзность",
    "emotion.friendly": "Дружелюбие",
    "emotion.whisper": "Шёпот",
    "language.none": "Определить по тексту",
    "language.auto": "По тексту",
    "language.chinese": "Китайский",
    "language.english": "Английский",
    "language.japanese": "Японский",
    "language.korean": "Корейский",
    "language.german": "Немецкий",
    "language.french": "Французский",
    "language.russian": "Русский",
    "language.portuguese": "Португальский",
    "language.spanish": "Испанский",
    "language.italian": "Итальянский",

    "status.idle": "Готово к работе",
    "status.loading": "Модель загружается: {n} %",
    "status.waiting": "Ждём первый звук…",
    "status.speaking": "Звучит…",
    "status.finished": "Закончено",
    "status.stopped": "Остановлено",
    "status.failed": "Не удалось",
    "status.fetching": "Готовим файл…",
    "status.recording": "Идёт запись…",
    "status.keeping": "Слушаю запись…",
    "status.kept": "Голос {name} сохранён",
    "status.deleted": "Голос {name} удалён",
    "status.saved": "Сохранено: {name}",

    "fact.x-voice": "Голос",
    "fact.x-language": "Язык",
    "fact.x-model": "Модель",
    "fact.x-seed": "Зерно",
    "fact.x-voice-applied": "Учтено",
    "fact.x-voice-not-applied": "Не учтено",
    "fact.x-warning": "Замечание",
    "fact.x-finish-reason": "Чем кончилось",
    "fact.x-audio-seconds": "Секунд",
    "fact.x-request-id": "Запрос",

    "error.invalid_request": "В запросе ошибка",
    "error.cannot_speak": "Это нельзя произнести",
    "error.no_reading": "В тексте нет ничего, что этот голос умеет читать",
    "error.runaway": "Модель не нашла конца этого текста",
    "error.word_times_not_supported": "Этот голос не знает, где его слова",
    "error.unknown_speaker": "Такого диктора нет",
    "error.unsupported_format": "Этот формат получить нельзя",
    "error.extra_missing": "На сервере нет нужного пакета",
    "error.internal_error": "Сбой на сервере",
    "error.unauthorized": "Сервер просит ключ API",
    "error.wrongKey": "Ключ API не подошёл",
    "error.busy": "Сервер занят",
    "error.not_ready": "Сервер ещё не готов",
    "error.timeout": "Ответ не успел прийти",
    "error.body_too_large": "Слишком длинный текст",
    "error.http": "Сервер ответил кодом {status}",
    "error.broken": "Соединение оборвалось: речь неполная",
    "error.unreachable": "Сервер недоступен",
    "error.unplayable": "Браузер не умеет играть этот формат, но файл можно скачать",
    "error.notAudio": "Пришёл не звук",
    "error.noSound": "Браузер не умеет играть звук",
    "error.noEquals": "В строке {n} нет «=» между словом и чтением: {line}",
    "error.page": "Ошибка на странице",
    "error.noMicrophone": "Микрофона нет, или им нельзя пользоваться (по http нельзя никогда)",
    "error.notARecording": "Этот файл не читается как звук",
    "error.noRecording": "Сделайте запись или выберите файл",
    "error.noConsent": "Нужно согласие человека в записи",
    "error.invalid_recording": "Эту запись нельзя клонировать",
    "error.cloning_not_supported": "Загруженная модель не клонирует голоса",
    "error.voice_exists": "Голос с таким именем уже есть",
    "error.library_full": "Больше голосов сохранить нельзя",
    "error.param": "Поле: {param}",
    "error.retry": "Повторите через {n} с",
  },
};

const KEPT_UNDER = "qwen-tts-page-language";

// Storage may be forbidden; the page then simply forgets.
function recall() {
  try {
    return localStorage.getItem(KEPT_UNDER);
  } catch {
    return null;
  }
}

function keep(language) {
  try {
    localStorage.setItem(KEPT_UNDER, language);
  } catch {
    // Nothing to do: the choice holds for this visit.
  }
}

function preferred() {
  const kept = recall();
  if (kept in WORDS) return kept;
  return /^(ru|be|uk|kk)\b/i.test(navigator.language) ? "ru" : "en";
}

let current = preferred();

export const pageLanguage = () => current;

export function choosePageLanguage(language) {
  current = language;
  keep(language);
}

/** Whether the page has words of its own for `key`. */
export const isKnown = (key) => key in WORDS[current];

/** The words for `key`, with each {name} replaced. */
export function say(key, values = {}) {
  const words = WORDS[current][key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const sayNumber = (n, digits = 0) =>
  n.toLocaleString(current, { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function sayCount(n) {
  return say(`count.${new Intl.PluralRules(current).select(n)}`, { n: sayNumber(n) });
}

/** Put words into every element that names its key. */
export function translate(root) {
  document.documentElement.lang = current;
  document.title = say("title");
  for (const node of root.querySelectorAll("[data-i18n]")) node.textContent = say(node.dataset.i18n);
  for (const node of root.querySelectorAll("[data-i18n-label]"))
    node.setAttribute("aria-label", say(node.dataset.i18nLabel));
  for (const node of root.querySelectorAll("[data-i18n-placeholder]"))
    node.placeholder = say(node.dataset.i18nPlaceholder);
}
