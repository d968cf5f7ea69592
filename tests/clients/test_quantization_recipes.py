"""The recipes, texts and recovery policies that ship, and what is said of files that do not hold."""

import json
from pathlib import Path

import pytest

from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.lanes import QUANTIZED_LANES
from modelops_dagster.domain.quantization import LANE_RECIPES
from modelops_dagster.settings import data_folder

SHIPPED = data_folder("quantization")


def records(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (SHIPPED / name).read_text(encoding="utf-8").splitlines()]


def test_every_shipped_recipe_and_policy_holds():
    folder = RecipeFolder(SHIPPED)
    names = [p.stem for p in SHIPPED.glob("*.yaml")]
    assert len(names) >= 5
    for name in names:
        recipe = folder.recipe(name)
        if recipe.calibration is not None:
            folder.texts(recipe.calibration.file)
            assert recipe.calibration.samples <= len(records(recipe.calibration.file))
    for path in (SHIPPED / "recovery").glob("*.yaml"):
        folder.texts(folder.policy(path.stem).texts)


def test_every_quantized_lane_has_a_recipe_and_another_can_be_chosen():
    assert set(LANE_RECIPES) == {lane.name for lane in QUANTIZED_LANES}
    folder = RecipeFolder(SHIPPED, ["awq=gptq", "fp8=fp8-block"])
    assert {lane: r.name for lane, r in folder.by_lane().items()} == {
        "fp8": "fp8-block", "awq": "gptq", "int8": "int8",
    }  # fmt: skip
    for pair in ("raw=int8", "int8", "int8="):
        with pytest.raises(InvalidSpec, match="lane=recipe"):
            RecipeFolder(SHIPPED, [pair])


def test_nothing_that_is_calibrated_on_is_held_out():
    texts = {
        name: {json.dumps({**r, "id": ""}) for r in records(name)} for name in ("calibration.jsonl", "heldout.jsonl")
    }
    assert texts["calibration.jsonl"].isdisjoint(texts["heldout.jsonl"])
    for name in texts:
        ids = [r["id"] for r in records(name)]
        assert len(set(ids)) == len(ids) == len(texts[name])
        assert all(("text" in r) != ("messages" in r) for r in records(name))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is not YAML"),
        ("name: mine", "version: this field is missing"),
        ("{name: mine, version: 1, description: d, scheme: W8A8, method: rtn, typo: 1}", "typo"),
        ("{name: other, version: 1, description: d, scheme: W8A8, method: rtn}", "it has to be the file's"),
        ("{name: mine, version: 1, description: d, scheme: W8A8, method: awq}", "need a calibration"),
    ],
)
def test_a_file_that_does_not_hold_is_told_in_a_sentence(tmp_path: Path, text: str, words: str):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InvalidSpec) as caught:
        RecipeFolder(tmp_path).recipe("mine")
    assert words in caught.value.sentence
    assert "mine.yaml" in caught.value.sentence


@pytest.mark.parametrize("name", ["nothing", "../recipes/int8", "recovery/default"])
def test_a_recipe_that_is_not_there(name: str):
    with pytest.raises(InvalidSpec, match="there are: awq, "):
        RecipeFolder(SHIPPED).recipe(name)
    with pytest.raises(InvalidSpec, match=r"nothing.jsonl is not there"):
        RecipeFolder(SHIPPED).texts("nothing.jsonl")
