"""What can be said about a text without understanding it: reasoning, normal form, language, leakage, repetition."""

import re
import zlib
from typing import NamedTuple

_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00a0": " ", "…": "..."}
)
_EMPHASIS = re.compile(r"(\*\*|__|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)|`+|^#{1,6} )", re.M)
_PLAIN = frozenset("*_`#")
"""ASCII text without these holds no emphasis."""
_THINK_OPEN = re.compile(r"<(think|thinking|thought|reasoning)>", re.I)
_THINK_CLOSE = re.compile(r"</(think|thinking|thought|reasoning)>", re.I)
_TEMPLATE = re.compile(
    r"<\|[a-z0-9_]+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<.{0,3}\uff5c|<eos>|<bos>|\[gMASK\]"
)
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")

_STOP_WORDS = (
    "the be to of and a in that have it for not on with he as you do at this but his by from they we say her she or "
    "an will my one all would there their what so up out if about who get which go me when make can like time no "
    "just him know take is are was were has had been its your our than then them these i how each may also such "
    "into use used more most some other only could should does did because "
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


class Reasoning(NamedTuple):
    """A completion taken apart."""

    thought: str
    answer: str
    is_finished: bool
    """False when the reasoning was opened and never closed: there is no answer then."""


def split_reasoning(text: str) -> Reasoning:
    """Separate `<think>…</think>` from the answer. A closing tag alone counts: some templates open it in the prompt."""
    if "<" not in text:
        return Reasoning("", text.strip(), True)
    close = list(_THINK_CLOSE.finditer(text))
    opened = _THINK_OPEN.search(text)
    if close:
        last = close[-1]
        start = opened.end() if opened and opened.start() < last.start() else 0
        return Reasoning(text[start : last.start()].strip(), text[last.end() :].strip(), True)
    if opened:
        return Reasoning(text[opened.end() :].strip(), text[: opened.start()].strip(), False)
    return Reasoning("", text.strip(), True)


def plain(text: str) -> str:
    """Typographic quotes and dashes as ASCII, Markdown emphasis and repeated spaces removed; line breaks stay."""
    if not (text.isascii() and _PLAIN.isdisjoint(text)):
        text = _EMPHASIS.sub("", text.translate(_TYPOGRAPHY))
    return "\n".join(" ".join(line.split()) for line in text.splitlines()).strip()


def normal(text: str, *, case_sensitive: bool = False) -> str:
    """`plain` on one line and, unless told otherwise, case-folded: the form in which texts are compared."""
    flat = " ".join(plain(text).split())
    return flat if case_sensitive else flat.casefold()


def occurs(needle: str, haystack: str, *, whole_words: bool = True) -> bool:
    """Whether `needle` is in `haystack` (both already normal), by default not inside a longer word or number."""
    if not needle:
        return False
    if not whole_words:
        return needle in haystack
    left = r"(?<![\w])" if needle[0].isalnum() else ""
    right = r"(?![\w])" if needle[-1].isalnum() else ""
    if needle[-1].isdigit():
        right += r"(?![.,]\d)"
    if needle[0].isdigit():
        left += r"(?<!\d[.,])"
    return re.search(left + re.escape(needle) + right, haystack) is not None


def template_leak(text: str) -> str | None:
    """The first chat-template token found in the text, or None."""
    found = _TEMPLATE.search(text)
    return found.group() if found else None


def has_broken_characters(text: str) -> bool:
    """U+FFFD, or a control character no answer needs: bytes that did not make a character."""
    return "\ufffd" in text or any(ord(c) < 32 and c not in "\n\r\t" for c in text)


def unbalanced_reasoning(text: str) -> bool:
    """A reasoning tag inside the content: the server did not take the reasoning out, or cut it in half."""
    return bool(_THINK_OPEN.search(text)) != bool(_THINK_CLOSE.search(text))


def reads_as_english(text: str) -> bool:
    """Stop-word rate and share of ASCII letters. Texts of fewer than six words are judged by their letters alone."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return any(c.isdigit() for c in text)
    if sum(c.isascii() for c in letters) / len(letters) < 0.9:
        return False
    words = [w.casefold() for w in _WORD.findall(text)]
    if len(words) < 6:
        return True
    rate = sum(w in STOP_WORDS for w in words) / len(words)
    mean_length = sum(map(len, words)) / len(words)
    return rate >= 0.15 and mean_length < 12


def repetition(text: str) -> str | None:
    """Say how the text repeats itself, or None. Two signs: a run of one n-gram, and a text that zips to almost nothing.

    A run of n words (n <= 8) that fills at least 24 words and three repeats is a loop. For longer texts the zlib
    ratio (compressed / raw bytes) of prose stays above 0.3; below 0.2 the text is a loop with small changes.
    """
    words = text.split()
    for n in range(1, 9):
        run = best = 0
        for i in range(n, len(words)):
            run = run + 1 if words[i] == words[i - n] else 0
            best = max(best, run)
        if best >= max(2 * n, 24 - n):
            return f"{n} words repeated {best // n + 1} times in a row"
    raw = text.encode()
    if len(raw) >= 400:
        ratio = len(zlib.compress(raw, 9)) / len(raw)
        if ratio < 0.2:
            return f"the text compresses to {ratio:.0%} of its size"
    return None
