"""Emotions as words and as instructions: synonyms in three languages, one phrase in two.

The phrases follow what the publisher shows to work: short, strong, in English or Chinese.
It does not know speakers, ages or whether a checkpoint obeys instructions.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from qwen_tts_service.errors import InvalidRequest

Emotion = Literal[
    "neutral",
    "happy",
    "sad",
    "angry",
    "fearful",
    "surprised",
    "disgusted",
    "excited",
    "calm",
    "serious",
    "friendly",
    "whisper",
]
InstructLanguage = Literal["english", "chinese"]

MAX_EMOTION_CHARS = 64
_PARAM = "voice_attributes.emotion"

_PHRASES: Mapping[Emotion, Mapping[InstructLanguage, str]] = {
    "neutral": {"english": "", "chinese": ""},
    "happy": {
        "english": "Speak in a very happy, cheerful tone.",
        "chinese": "用非常开心愉快的语气说。",
    },
    "sad": {
        "english": "Speak in a very sad, sorrowful tone.",
        "chinese": "用非常悲伤难过的语气说。",
    },
    "angry": {
        "english": "Speak in a very angry, furious tone.",
        "chinese": "用特别愤怒的语气说。",
    },
    "fearful": {
        "english": "Speak in a frightened, trembling voice.",
        "chinese": "用害怕、颤抖的语气说。",
    },
    "surprised": {
        "english": "Speak in a very surprised, astonished tone.",
        "chinese": "用非常惊讶的语气说。",
    },
    "disgusted": {
        "english": "Speak in a disgusted, contemptuous tone.",
        "chinese": "用厌恶嫌弃的语气说。",
    },
    "excited": {
        "english": "Speak in a very excited, energetic tone.",
        "chinese": "用非常兴奋激动的语气说。",
    },
    "calm": {
        "english": "Speak in a calm, relaxed, steady tone.",
        "chinese": "用平静舒缓的语气说。",
    },
    "serious": {
        "english": "Speak in a serious, formal tone.",
        "chinese": "用严肃正式的语气说。",
    },
    "friendly": {
        "english": "Speak in a warm, friendly tone.",
        "chinese": "用温暖亲切的语气说。",
    },
    "whisper": {
        "english": "Whisper softly, in a hushed voice.",
        "chinese": "轻声耳语。",
    },
}

# Written as people write them: a comma between synonyms; a word belongs to one emotion only.
_SYNONYMS: Mapping[Emotion, str] = {
    "neutral": "neutral, none, normal, default, plain, нейтральный, нейтральная, нейтрально, "
    "нейтральное, обычный, обычная, обычно, без эмоций, "
    "中性, 中立, 平淡, 普通, 正常, 无",
    "happy": "happy, happiness, joy, joyful, joyous, cheerful, glad, merry, delighted, happily, "
    "радость, радостный, радостная, радостно, счастье, счастливый, счастливая, счастливо, "
    "веселье, весёлый, весёлая, весело, жизнерадостный, жизнерадостно, "
    "开心, 高兴, 快乐, 愉快, 喜悦, 欢快, 開心, 高興, 快樂",
    "sad": "sad, sadness, sadly, sorrow, sorrowful, unhappy, melancholy, melancholic, gloomy, "
    "depressed, mournful, грусть, грустный, грустная, грустно, печаль, печальный, печальная, "
    "печально, тоска, тоскливый, тоскливо, унылый, уныло, горе, "
    "悲伤, 难过, 伤心, 悲哀, 忧伤, 悲傷, 難過, 傷心",
    "angry": "angry, anger, angrily, furious, mad, rage, irritated, annoyed, злость, злой, злая, "
    "зло, гнев, гневный, гневная, гневно, сердитый, сердитая, сердито, ярость, яростный, яростно, "
    "раздражённый, раздражённо, 愤怒, 生气, 恼火, 暴怒, 憤怒, 生氣",
    "fearful": "fearful, fear, afraid, scared, frightened, terrified, anxious, nervous, страх, "
    "испуг, испуганный, испуганная, испуганно, страшно, боязливый, боязливо, тревога, тревожный, "
    "тревожная, тревожно, 害怕, 恐惧, 恐慌, 紧张, 惊恐, 恐懼, 緊張",
    "surprised": "surprised, surprise, astonished, amazed, shocked, удивление, удивлённый, "
    "удивлённая, удивлённо, изумление, изумлённый, изумлённо, шок, "
    "惊讶, 吃惊, 惊奇, 惊喜, 驚訝, 吃驚",
    "disgusted": "disgusted, disgust, contempt, contemptuous, scornful, отвращение, брезгливый, "
    "брезгливо, презрение, презрительный, презрительно, с отвращением, "
    "厌恶, 恶心, 嫌弃, 鄙视, 厭惡, 噁心",
    "excited": "excited, excitement, enthusiastic, energetic, thrilled, восторг, восторженный, "
    "восторженная, восторженно, возбуждённый, возбуждённо, воодушевлённый, воодушевлённо, "
    "энергичный, энергично, взволнованный, взволнованно, 兴奋, 激动, 热情, 興奮, 激動",
    "calm": "calm, calmly, relaxed, peaceful, serene, soothing, tranquil, спокойствие, спокойный, "
    "спокойная, спокойно, расслабленный, расслабленно, умиротворённый, умиротворённо, "
    "безмятежный, безмятежно, 平静, 冷静, 放松, 舒缓, 平靜, 冷靜",
    "serious": "serious, seriously, formal, stern, solemn, серьёзность, серьёзный, серьёзная, "
    "серьёзно, строгий, строгая, строго, официальный, официально, торжественный, торжественно, "
    "严肃, 正式, 认真, 庄重, 嚴肅, 認真",
    "friendly": "friendly, warm, kind, tender, gentle, affectionate, дружелюбие, дружелюбный, "
    "дружелюбная, дружелюбно, тёплый, тепло, добрый, добрая, ласковый, ласковая, ласково, нежный, "
    "нежная, нежно, приветливый, приветливо, 友好, 亲切, 温柔, 温暖, 親切, 溫柔",
    "whisper": "whisper, whispering, whispered, hushed, шёпот, шёпотом, шепчущий, шепча, "
    "耳语, 低语, "
    "悄悄话, 轻声, 耳語, 輕聲",
}


def _key(word: str) -> str:
    return " ".join(word.casefold().replace("ё", "е").strip(" .!。！").split())


_EMOTION_OF: Mapping[str, Emotion] = MappingProxyType(
    {_key(word): emotion for emotion, words in _SYNONYMS.items() for word in words.split(",")}
)


def known_emotion(word: str) -> Emotion | None:
    """Recognise an emotion word in English, Russian or Chinese; None if it is not in the table."""
    return _EMOTION_OF.get(_key(word))


def emotion_phrase(word: str, language: InstructLanguage) -> str:
    """Turn an emotion into an instruction; "" for a neutral one.

    A word outside the table is put into a plain phrase as it is. Raises `InvalidRequest` for
    what cannot be such a word: too long, without a letter, control characters, `<`, `>`, `|`.
    """
    word = _checked(word)
    emotion = known_emotion(word)
    if emotion is not None:
        return _PHRASES[emotion][language]
    if language == "chinese":
        return f"用{word}的语气说。"
    article = "an" if word[0].lower() in "aeiou" else "a"
    return f"Speak in {article} {word} tone."


def _checked(word: str) -> str:
    word = word.strip()
    if len(word) > MAX_EMOTION_CHARS:
        reason = f"emotion is longer than {MAX_EMOTION_CHARS} characters; use instruct for more"
        raise InvalidRequest(reason, param=_PARAM)
    # <, > and | are what special tokens of the model are written with.
    if not word.isprintable() or set(word) & set("<>|"):
        reason = "emotion may contain neither control characters nor '<', '>', '|'"
        raise InvalidRequest(reason, param=_PARAM)
    if not any(char.isalpha() for char in word):
        raise InvalidRequest("emotion has no letter; write it as a word", param=_PARAM)
    return word.rstrip(" .!。！")
