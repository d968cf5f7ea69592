"""The page about endpoints says what the code does."""

import re
from pathlib import Path

from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.lifecycle import TRANSITIONS, Event

PAGE = Path(__file__).resolve().parents[1] / "docs" / "endpoints.md"


def transition_table() -> str:
    """A row per state, a cell per event that leads to another state than Building (start) and Stopped (stopped)."""
    rows = []
    for state, row in TRANSITIONS.items():
        cells = [f"{event} → {to}" for event, to in row.items() if event not in (Event.START, Event.STOPPED)]
        rows.append(f"| {state} | {', '.join(cells) or 'nothing else'} |")
    return "\n".join(["| state | what happens to it → the state that follows |", "|---|---|", *rows])


def test_the_transition_table_is_the_one_the_controller_runs_on():
    found = re.search(r"<!-- transitions -->\n(.*?)\n?<!-- /transitions -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == transition_table(), f"put this between the marks:\n{transition_table()}"
    assert {Event.START, Event.STOPPED} <= set.intersection(*(set(TRANSITIONS[s]) for s in EndpointState))
