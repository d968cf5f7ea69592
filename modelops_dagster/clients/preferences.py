"""How often graders and people prefer a candidate's answers to its incumbent's, run by run."""

from collections import defaultdict
from typing import NamedTuple

from modelops_dagster.clients.labels import read_labels
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.gauntlet.grading import Judgement
from modelops_dagster.domain.gauntlet.preferring import PEOPLE, Preference, compared, preference, preferences
from modelops_dagster.domain.labels import people_say

CALLS = """
    select run_id, repo_id, lane, grader, split_part(category, '/', 1), item_uid, answer_uid, other_uid, placement,
           repeat, preference
    from judgements where other_uid is not null and coalesce(repo_id = ?, true) order by all
"""
LABELLED = """
    select distinct run_id, repo_id, lane, split_part(category, '/', 1), item_uid, answer_uid, other_uid
    from labels where kind = 'pair' and coalesce(repo_id = ?, true) order by all
"""


class RunPreference(NamedTuple):
    """A preference, and whose candidate it is about."""

    run_id: str
    repo_id: str
    lane: str
    found: Preference


def run_preferences(store: ScoreStore, repo_id: str | None = None) -> list[RunPreference]:
    """Every judge's preference in every run that compared two models' answers, of one model when it is named."""
    calls: dict[tuple[str, ...], list[Judgement]] = defaultdict(list)
    for *key, placement, repeat, value in store.query(CALLS, [repo_id])[1]:
        one = Judgement(grader=key[3], placement=placement, repeat=repeat, preference=value)
        calls[tuple(key)].append(one)
    by_run: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for about in calls:
        by_run[about[:4]].append(about)
    out = []
    for (run_id, repo, lane, grader), keys in by_run.items():
        both = [(key[4], key[5], compared(calls[key])) for key in keys]
        out += [RunPreference(run_id, repo, lane, found) for found in preferences(grader, both)]
    said = people_say(read_labels(store))
    people: dict[tuple[str, str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for run_id, repo, lane, category, item, answer, other in store.query(LABELLED, [repo_id])[1]:
        if (answer, other) in said:
            people[run_id, repo, lane, category].append((item, said[answer, other]))
    out += [RunPreference(*key[:3], preference(PEOPLE, key[3], pairs)) for key, pairs in people.items()]
    return sorted(out, key=lambda one: (one.run_id, one.repo_id, one.lane, one.found.category, one.found.judge))
