"""Text checks: good English passes, the marks of serving faults do not."""

import pytest

from modelops_dagster.domain.gauntlet.text import (
    has_broken_characters,
    normal,
    occurs,
    reads_as_english,
    repetition,
    split_reasoning,
    template_leak,
    unbalanced_reasoning,
)

PROSE = (
    "The lighthouse stood at the end of the pier, and every evening the keeper climbed the stairs to light the lamp. "
    "He had done so for thirty years, through storms and quiet nights alike, and he knew each ship by the sound of its "
    "engine. When the fog came in he rang the bell, and the answer always came back from the water after a while."
)


def test_prose_passes_every_check() -> None:
    assert reads_as_english(PROSE)
    assert template_leak(PROSE) is None
    assert not has_broken_characters(PROSE)
    assert repetition(PROSE) is None


@pytest.mark.parametrize("text", ["Paris.", "42", "Bonjour", "There are seven days in a week."])
def test_short_answers_are_not_called_foreign(text: str) -> None:
    assert reads_as_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "Столица Франции это город Париж",
        "首都是巴黎",
        "qx vlkj zzqp mwrt plkq vbnm xcvz qwpo lkjh",
        "Le chat est assis sur la table dans le jardin",
        "",
        "!!! ??? ###",
    ],
)
def test_what_is_not_english(text: str) -> None:
    assert not reads_as_english(text)


@pytest.mark.parametrize(
    "text", ["Hi<|im_end|>", "</s>", "[/INST] yes", "<end_of_turn>", "<\uff5cend\uff5c>", "a<eos>"]
)
def test_template_tokens_are_found(text: str) -> None:
    assert template_leak(text)


@pytest.mark.parametrize("text", ["a < b and c > d", "<b>bold</b>", "x |> f", "[1] a source", "<s3 bucket>"])
def test_markup_is_not_a_template_token(text: str) -> None:
    assert template_leak(text) is None


@pytest.mark.parametrize("text", ["the " * 40, "I am a cat. " * 12, PROSE.split(",")[0] + " and so on" * 12])
def test_loops_are_found(text: str) -> None:
    assert repetition(text)


def test_lists_are_not_loops() -> None:
    assert repetition("\n".join(f"{i}. Item number {i} costs {i * 3} euros" for i in range(1, 9))) is None


def test_broken_characters() -> None:
    assert has_broken_characters("caf\ufffd")
    assert has_broken_characters("a\x00b")
    assert not has_broken_characters("café\tx\n")


def test_reasoning_is_taken_out() -> None:
    assert split_reasoning("<think>a</think> b") == ("a", "b", True)
    assert split_reasoning("a</think>b") == ("a", "b", True)
    assert split_reasoning("<think>a") == ("a", "", False)
    assert split_reasoning("plain") == ("", "plain", True)
    assert unbalanced_reasoning("a</think>b")
    assert not unbalanced_reasoning("<think>a</think>b")


def test_normal_form() -> None:
    assert normal("  **“Don’t”**\n  _stop_ ") == '"don\'t" stop'
    assert normal("snake_case 2*3*4") == "snake_case 2*3*4"
    assert occurs("4", "is 4.") and not occurs("4", "4.5") and not occurs("cat", "concat")
