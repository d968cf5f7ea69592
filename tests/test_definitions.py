"""The asset graph, as a golden file: a change of the graph is a change of this text in review."""

from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.definitions import build_definitions
from modelops_dagster.settings import Settings

GOLDEN = Path(__file__).parent / "golden" / "asset_graph.txt"


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    home = tmp_path_factory.mktemp("home")
    return build_definitions(Settings.load({"MODELOPS_HOME": str(home), "HOME": str(home)}))


def test_definitions_load(definitions: dg.Definitions):
    dg.Definitions.validate_loadable(definitions)


def test_asset_graph_is_the_one_in_the_golden_file(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    lines = []
    for key in sorted(graph.get_all_asset_keys(), key=lambda k: k.path):
        node = graph.get(key)
        parents = ", ".join(sorted(p.to_user_string() for p in node.parent_keys)) or "-"
        partitions = "models" if node.is_partitioned else "-"
        checks = ", ".join(sorted(c.name for c in node.check_keys)) or "-"
        lines.append(f"{key.to_user_string()} <- {parents} | group {node.group_name} | {partitions} | checks {checks}")
    assert "\n".join(lines) + "\n" == GOLDEN.read_text(), (
        "the graph changed: read the diff, then update the golden file"
    )


def test_every_asset_says_what_it_is(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    silent = [k.to_user_string() for k in graph.get_all_asset_keys() if not graph.get(k).description]
    assert not silent


def test_gates_are_per_model(definitions: dg.Definitions):
    """An unpartitioned blocking check would let one model's failure hold, or free, all the others."""
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get(key).partitions_def is not None, key
