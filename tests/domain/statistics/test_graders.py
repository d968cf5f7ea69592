"""Agreement against worked examples, and corrections by simulation: the truth lies in the interval."""

import numpy as np
import pytest

from modelops_dagster.domain.statistics.graders import (
    agreement,
    alpha,
    inverse_weighted,
    prediction_powered,
    rogan_gladen,
)


def verdicts(both: int, grader_only: int, human_only: int, neither: int) -> tuple[list[bool], list[bool]]:
    grader = [True] * (both + grader_only) + [False] * (human_only + neither)
    human = [True] * both + [False] * grader_only + [True] * human_only + [False] * neither
    return grader, human


def test_kappa_of_a_worked_example() -> None:
    # 20, 5, 10, 15: observed 0.70, chance 0.50, kappa 0.40 with standard error 0.1267 (Fleiss, Cohen and Everitt)
    found = agreement(*verdicts(20, 5, 10, 15))
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.high - found.kappa.low == pytest.approx(2 * 1.96 * 0.1267, rel=0.01)
    assert found.sensitivity.value == pytest.approx(20 / 30)
    assert found.specificity.value == pytest.approx(15 / 20)
    assert found.sensitivity.low < 20 / 30 < found.sensitivity.high


def test_ac1_survives_a_lopsided_sample() -> None:
    # Gwet 2008: 118, 5, 2, 0 of 125 agree in 94 % and have a kappa below 0
    found = agreement(*verdicts(118, 5, 2, 0))
    assert found.kappa.value < 0
    assert found.ac1 == pytest.approx(0.94, abs=0.01)


def test_agreement_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        agreement([True, False], [True, True])
    with pytest.raises(ValueError, match="1 verdicts"):
        agreement([True], [True, False])


def test_a_perfect_grader_is_not_corrected() -> None:
    found = rogan_gladen(70, 100, right=(50, 50), wrong=(50, 50))
    assert found.value == pytest.approx(0.7)
    assert found.low < 0.7 < found.high


def test_rogan_gladen_by_hand() -> None:
    assert rogan_gladen(60, 100, right=(90, 100), wrong=(80, 100)).value == pytest.approx((0.6 + 0.8 - 1) / 0.7)
    with pytest.raises(ValueError, match="no better than a coin"):
        rogan_gladen(60, 100, right=(40, 100), wrong=(50, 100))


def test_bad_chances_and_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.05 to 1"):
        inverse_weighted([(1.0, None, 0.01), (1.0, 1.0, 0.5)])
    with pytest.raises(ValueError, match="too few"):
        inverse_weighted([(1.0, 1.0, 1.0)])
    with pytest.raises(ValueError, match="too few"):
        prediction_powered([1.0, 0.0], [(1.0, 1.0)])


def test_the_truth_lies_in_the_corrected_intervals() -> None:
    rng = np.random.default_rng(11)
    times, true, se, sp, n = 300, 0.7, 0.9, 0.8, 400
    hits = np.zeros(3)
    raw = []
    for _ in range(times):
        right = rng.random(n) < true
        grade = np.where(right, rng.random(n) < se, rng.random(n) > sp)
        raw.append(grade.mean())
        known, seen = right[:120], grade[:120]
        estimates = (
            rogan_gladen(
                int(grade.sum()),
                n,
                right=(int((known & seen).sum()), int(known.sum())),
                wrong=(int((~known & ~seen).sum()), int((~known).sum())),
            ),
            prediction_powered(grade.astype(float), list(zip(known.astype(float), seen.astype(float), strict=True))),
            inverse_weighted(
                [
                    (float(g), float(r) if rng.random() < c else None, c)
                    for g, r, c in zip(grade, right, np.where(grade, 0.25, 0.7), strict=True)
                ]
            ),
        )
        hits += [e.low <= true <= e.high for e in estimates]
    assert abs(float(np.mean(raw)) - (true * se + (1 - true) * (1 - sp))) < 0.005
    assert (hits / times >= 0.92).all(), hits / times


def test_alpha_of_a_worked_example() -> None:
    # Krippendorff 2011, example B: ten units, two observers, binary: 0.095
    first, second = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    units = [list(map(float, pair)) for pair in zip(first, second, strict=True)]
    assert alpha(units) == pytest.approx(0.095, abs=0.001)
    assert alpha([*units, [1.0], [0.0]]) == alpha(units)
    assert alpha([[1.0, 1.0], [0.0, 0.0, 0.0]]) == 1.0
    assert alpha([[1.0, 1.0], [1.0, 1.0]]) is None
    assert alpha([[1.0]]) is None
