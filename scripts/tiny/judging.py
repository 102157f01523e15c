"""When an answer is right, and when a story keeps its protagonist. Pure text, no model.

A story keeps its protagonist when the name in its first sentence is the only name in it, comes
back at least twice and once in its last two sentences, and a girl stays a girl, a boy a boy.
"""

import re

from .words import listed

_SENTENCE_END = re.compile(r'(?<=[.!?])["”]?\s+')
_STARTERS = frozenset(
    listed(
        "Once There One Long She He Her His Every For But Then At On Soon Why Can Have Will You "
        "The Suddenly Under That From And In This Not It Thank Hello They When After So Now All As "
        "Day Let Many A Early Who Everybody Near Before"
    )
)


def is_right(answer: str, expected: str) -> bool:
    """Whether the answer has the expected words as whole words."""
    pattern = r"(?<![\w])" + re.escape(_plain(expected)) + r"(?![\w])"
    return re.search(pattern, _plain(answer)) is not None


def keeps_protagonist(story: str) -> bool:
    """See the module."""
    sentences = [part.strip() for part in _SENTENCE_END.split(story.strip()) if part.strip()]
    if len(sentences) < 4:
        return False
    heroes = _names_in(sentences[0])
    if len(heroes) != 1:
        return False
    (hero,) = heroes
    later = sentences[1:]
    is_alone = all(_names_in(sentence) <= heroes for sentence in later)
    n_back = sum(hero in _words_of(sentence) for sentence in later)
    is_last = any(hero in _words_of(sentence) for sentence in later[-2:])
    return is_alone and n_back >= 2 and is_last and not _changes_sex(sentences)


def _words_of(sentence: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", sentence)


def _names_in(sentence: str) -> set[str]:
    """Every word with a capital, save those that only begin a sentence."""
    found = set()
    for match in re.finditer(r"[A-Z][a-z]+", sentence):
        before = sentence[: match.start()].rstrip()
        starts = not before or before[-1] in '"“.!?'
        if not (starts and match.group() in _STARTERS):
            found.add(match.group())
    return found


def _changes_sex(sentences: list[str]) -> bool:
    text = " ".join(sentences)
    girl = re.search(r"\b(girl|[Ss]he|[Hh]er)\b", text)
    boy = re.search(r"\b(boy|[Hh]e|[Hh]is|him)\b", text)
    return girl is not None and boy is not None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
