"""The answers of the samples that ship, worked out a second time by another road than the samples suggest."""

import itertools
from pathlib import Path

from modelops_dagster.clients.gauntlet.loading import load_samples
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import score_completion

SHIPPED = Path(__file__).resolve().parents[1] / "eval_datasets"


def quality() -> tuple[Sample, ...]:
    return load_samples(SHIPPED / "quality.jsonl")


def computed() -> dict[str, float]:
    """Answers worked out by counting or by another road than the one their sample suggests."""
    digits = [sum(map(int, str(n))) for n in range(100, 1000)]
    balls = [(a, b) for a in range(10) for b in range(10) if a != b]
    boxes = 1250
    for day in range(28):
        boxes += -60 if day % 7 in (5, 6) else 180 - 145
    minute, gap = 0, 90.0
    while gap > 1e-9:
        gap -= (17 + (0 if 60 <= minute < 90 else 13)) / 60
        minute += 1
    hands = abs((3 * 60 + 40) * 0.5 - 40 * 6)
    return {
        "reason-001": 2 + 3,
        "reason-002": 3 * 3,
        "reason-003": 7 + 8,
        "reason-004": 100 / 10,
        "reason-005": 3 + 4,
        "reason-006": 24,
        "reason-007": 20 / 2,
        "reason-008": [2, 4, 6, 8, 10][4],
        "reason-009": 20 - 4 * 3,
        "reason-010": (17 * 60 + 10) - (14 * 60 + 35),
        "reason-011": 80 * 1.25 * 0.9,
        "reason-012": 12 * (38 / 2 - 12),
        "reason-013": 45 / 3 / 5 * 7 * 6,
        "reason-014": sum(range(41)),
        "reason-015": len(range(1, 9)) + 1 + len(range(1, 14)),
        "reason-016": 1 / (1 / 6 - 1 / 10),
        "reason-017": boxes,
        "reason-018": digits.count(5),
        "reason-019": sum((a < 4) == (b < 4) for a, b in balls) / len(balls),
        "reason-020": min(hands, 360 - hands),
        "reason-021": 3**50 % 7,
        "reason-022": minute,
        "reason-023": 12000 + 12000 * 0.045 / 12 * 30,
        "reason-024": 96 / (0.4 * 0.25 + 0.6 * 0.1),
        "reason-025": sum(any(c.isdigit() for c in code) for code in itertools.product("0123456789aeiou", repeat=4)),
        "qa-020": 500 - 320,
        "qa-021": ((242 / 200) ** 0.5 - 1) * 100,
        "follow-023": "reference letter".count("e"),
        "ground-008": 212 + 145,
        "ground-010": 120 - 30,
        "ground-013": 3 * (230 - 210),
        "dialogue-004": (12 + 30 - 7) * 2,
        "dialogue-005": 2 + 3,
        "lang-002": 9 + 8,
        "lang-004": 100,
    }


def computed_later() -> dict[str, float]:
    """The same for the samples of version 2."""
    return {
        "reason-026": next(h for h in range(99) if 84 - 8 * h == 20),
        "reason-027": 48 / 6 + 3,
        "reason-028": 640 * 1.35 + 16,
        "reason-029": (8000 * 1.05 + 2000) * 1.05,
        "reason-030": 100 * (1 - 0.04**2),
        "reason-031": 3 * len(list(itertools.combinations(range(5), 2))),
        "reason-032": (22 * 60 + 40 + 115 + 20 + 95) - 24 * 60,
        "reason-033": 2400 * 0.95 * 0.75 * 0.9,
        "reason-034": 1000 / min(40, 25, 50),
        "reason-035": next(m for m in range(1, 99) if m * (75 + 3000 * 0.02) == 1260 + m * 3000 * 0.01),
        "reason-036": 30 * (30 - 5),
        "reason-037": sum(12 + 3 * week for week in range(6)),
        "reason-038": (3 * 45) % 7 + 1,
        "reason-039": 10000 * (0.02 * 0.9 + 0.98 * 0.05),
        "reason-040": 40 / 1.04 + 1040 / 1.04**2,
        "reason-041": len(list(itertools.permutations("ABCDEF", 2))) * 9,
        "reason-042": 30 * 24 * 0.005,
        "reason-043": 84000 / (5 - 2) * (2 + 3 + 5),
        "reason-044": 900 / 4 * 3,
        "reason-045": 1200 / 5 * 2,
        "reason-046": 1500 / 6 * 4,
        "ground-016": 1.8 - 1.5,
        "ground-018": 100 - 61 - 4,
        "ground-019": 0.45,
        "ground-021": (10 * 60 + 44) - (10 * 60 + 4),
        "ground-022": 2310 - 1960,
        "ground-025": 50,
        "dialogue-011": 900 - 120 - 4 * 95,
        "dialogue-018": len("Banana"),
        "lang-009": 200 / 4,
    }


def test_numbers_are_right() -> None:
    answers = computed() | computed_later()
    for sample in quality():
        if sample.metadata.scorer == "numeric":
            scored = score_completion(sample, Completion(text=f"{answers[sample.id]:.6f}", finish_reason="stop"))
            assert scored.outcome_class == "correct", f"{sample.id}: {scored.explanation}"


def test_transformed_words_are_right() -> None:
    targets = {s.id: s.target for s in quality()}
    inputs = {s.id: str(s.input) for s in quality()}
    assert targets["follow-008"] == "quiet river bank".upper()
    assert targets["follow-013"] == "ledger"[::-1]
    assert targets["follow-014"] == tuple(sorted(["pear", "fig", "mango", "apple", "kiwi"]))
    assert targets["follow-015"] == " ".join(map(str, range(12, 0, -2)))
    assert targets["follow-017"] == "banana bread".replace("a", "o")
    assert targets["follow-018"] == inputs["follow-018"].split("'")[1].split()[2].upper()


def test_sums_asked_for_in_other_forms_are_right() -> None:
    targets = {s.id: s for s in quality()}
    assert targets["lang-005"].target == str((11 * 60 + 5) - (8 * 60 + 50))
    assert targets["lang-006"].target == str(3 * 2 + 4)
    assert targets["dialogue-010"].target == "47" + "19"
    assert targets["dialogue-015"].target == str(7 * 8)
    assert '"minutes": 68' in str(targets["json-012"].target) and (10 * 60 + 20) - (9 * 60 + 12) == 68
    assert '"gross": 408' in str(targets["json-018"].target) and 4 * 85 * 1.2 == 408
