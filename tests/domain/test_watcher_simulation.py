"""Publish histories in any order, with failures, short listings and kills: nothing missed, nothing twice."""

from pathlib import Path

import pytest

from tests.fakes.watcher_simulation import Outcome, simulate

ORGS = 30


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root: Path = tmp_path_factory.mktemp("worlds")
    total = Outcome()
    for seed in range(ORGS):
        total += simulate(root / str(seed), seed)
    return total


def test_the_simulation_is_eventful(outcome: Outcome):
    assert outcome["histories"] == 10 * ORGS
    assert outcome["kills"] > ORGS
    assert outcome["wanted"] > outcome["histories"]


@pytest.mark.parametrize("what", ["missed", "duplicated", "unwanted", "withdrawals_missed", "withdrawn_wrongly"])
def test_nothing_goes_wrong(outcome: Outcome, what: str):
    assert outcome[what] == 0, dict(outcome)
