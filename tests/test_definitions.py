"""The asset graph, as a golden file, and what it says about itself: assets, checks, jobs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.definitions import build_definitions
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.lanes import LANES, QUANTIZED_LANES
from modelops_dagster.domain.score_columns import COLUMNS, columns_of
from modelops_dagster.domain.scores import TABLES
from modelops_dagster.settings import Settings

GOLDEN = Path(__file__).parent / "golden" / "asset_graph.txt"


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    home = tmp_path_factory.mktemp("home")
    return build_definitions(Settings.load({"MODELOPS_HOME": str(home), "HOME": str(home)}))


def test_definitions_load(definitions: dg.Definitions):
    dg.Definitions.validate_loadable(definitions)


STRICT = """
import warnings
import dagster as dg
import pydantic
for kind in (DeprecationWarning, dg.BetaWarning, dg.PreviewWarning, dg.SupersessionWarning):
    warnings.simplefilter("error", kind)
warnings.simplefilter("ignore", pydantic.PydanticDeprecatedSince20)  # Dagster's own use of Pydantic
from modelops_dagster.definitions import build_definitions
from modelops_dagster.settings import Settings
dg.Definitions.validate_loadable(build_definitions(Settings.load()))
"""


def test_nothing_is_used_that_dagster_is_to_remove_or_may_change(tmp_path: Path):
    environ = {"MODELOPS_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    loaded = subprocess.run((sys.executable, "-c", STRICT), env=environ, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr[-2000:]


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
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        said = {
            "description": node.description,
            "group": node.group_name,
            "kinds": node.kinds,
            "owners": node.owners == ["team:platform"],
            "code version": node.code_version,
        }
        assert all(said.values()), (key.to_user_string(), said)


NO_TABLE = r"(release|lane_plan|\w+_weights|report|watcher|eval_datasets/(contract|performance))"


def test_what_is_a_table_tells_its_columns(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        name, schema = key.to_user_string(), graph.get(key).metadata.get("dagster/column_schema")
        assert (schema is None) == bool(re.fullmatch(NO_TABLE, name)), name
        for column in schema.columns if schema is not None else ():
            assert column.type, (name, column.name)
            assert column.description, (name, column.name)


def test_score_columns_are_those_of_the_tables_and_of_the_view(tmp_path: Path):
    everywhere = {column for columns in TABLES.values() for column, _ in columns}
    assert everywhere | {"previous_value", "change"} == set(COLUMNS)
    store = ScoreStore(tmp_path)
    store.publish()
    described = store.query("select column_name, column_type from (describe score_history)")[1]
    kinds = {"text": "VARCHAR", "float": "DOUBLE", "int": "BIGINT", "timestamp": "TIMESTAMP WITH TIME ZONE"}
    assert [tuple(row) for row in described] == [
        (name, kinds[kind]) for name, (kind, _) in columns_of("score_history").items()
    ]


def test_only_the_leaderboard_and_the_watcher_can_be_stale(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    watched = {k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).freshness_policy is not None}
    assert watched == {"leaderboard", "watcher"}


def test_owners_are_a_setting(tmp_path: Path):
    environ = {"MODELOPS_HOME": str(tmp_path), "HOME": str(tmp_path)}
    owners = "team:serving, ml@example.org"
    graph = build_definitions(Settings.load({**environ, "MODELOPS_ASSET_OWNERS": owners})).resolve_asset_graph()
    assert {tuple(graph.get(k).owners) for k in graph.get_all_asset_keys()} == {("team:serving", "ml@example.org")}
    with pytest.raises(UserError, match="'me' is neither team:NAME nor an e-mail address"):
        Settings.load({**environ, "MODELOPS_ASSET_OWNERS": "me"})


# what a job cannot guess
ASKED = {
    "promote": {"alias"},
    "roll_back": {"alias"},
    "start_endpoint": {"endpoint"},
    "stop_endpoint": {"endpoint"},
    "answer_batch": {"file"},
    "research": {"command", "owner"},
}


def test_jobs_are_described_field_by_field_and_ask_only_what_they_cannot_guess(definitions: dg.Definitions):
    for job in (definitions.resolve_job_def(j.name) for j in definitions.jobs or ()):
        assert job.description, job.name
        required = set()
        for node in job.nodes:
            config = node.definition.config_field
            fields = getattr(config.config_type, "fields", {}) if config is not None else {}
            for name, field in fields.items():
                assert field.description, f"{job.name}: {name}"
                assert field.config_type.given_name or field.config_type.kind.name != "ANY", f"{job.name}: {name}"
                if field.is_required:
                    required.add(name)
        assert required == ASKED.get(job.name, set()), job.name


def test_what_runs_by_itself_says_what_it_does(definitions: dg.Definitions):
    ticking = [*(definitions.sensors or ()), *(definitions.schedules or ())]
    assert ticking
    assert [one.name for one in ticking if not one.description] == []


GATES = {
    "release": "preflight",
    "raw_weights": "integrity",
    **{lane.checkpoint_asset: "recovery" for lane in QUANTIZED_LANES},
    **{f"{lane.name}/endpoint": "first_rung" for lane in LANES},
    **{f"{lane.name}/verdict": "promotion" for lane in LANES},
}


def test_every_gate_is_a_check(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    assert {k.asset_key.to_user_string(): k.name for k in graph.asset_check_keys} == GATES
    assert all(graph.get(key).description for key in graph.asset_check_keys)


def test_gates_are_per_model(definitions: dg.Definitions):
    """An unpartitioned blocking check would let one model's failure hold, or free, all the others."""
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get(key).partitions_def is not None, key


def test_the_launchpad_shows_what_a_job_asks_and_nothing_else(definitions: dg.Definitions):
    for job in definitions.jobs or ():
        snap = JobSnap.from_job_def(definitions.resolve_job_def(job.name))
        root = snap.config_schema_snapshot.get_config_snap(str(snap.mode_def_snaps[0].root_config_key))
        shown = yaml.safe_load(default_values_yaml_from_type_snap(snap.config_schema_snapshot, root)) or {}
        assert set(shown) <= {"ops"}, (job.name, shown)
