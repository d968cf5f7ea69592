"""Quantized copies of the demonstration model on the real ladder: who serves them, and who is left because of speed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.engines import Rung
from modelops_dagster.settings import Settings
from tests.engines.quantized_models import FOUR_BITS, Works
from tests.fakes.zoo import Zoo, zoo

pytestmark = [pytest.mark.engine, pytest.mark.slow]
VLLM, LAST_RUNG = (Rung(engine="vllm-cpu"),), (Rung(engine="transformers"),)
BAR = 2 * Settings.model_fields["min_tokens_per_second"].default


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, registry: EngineRegistry, model: Path) -> Works:
    registry.install("llmcompressor", print)
    return Works(tmp_path_factory.mktemp("quantized"), registry, model)


@pytest.fixture(scope="module")
def place(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with zoo(tmp_path_factory.mktemp("home"), settings) as opened:
        yield opened


@pytest.mark.parametrize("recipe", ["fp8-dynamic", "int8", FOUR_BITS], ids=["FP8", "INT8", "W4A16"])
def test_the_last_rung_serves_every_scheme_with_sane_answers(place: Zoo, works: Works, recipe: object):
    made = works.make(recipe)  # type: ignore[arg-type]
    landed, ladder = place.land(made, LAST_RUNG, min_tokens_per_second=0.2)
    assert (landed, [result.reason for result in ladder]) == ("transformers", [None])


@pytest.mark.long
def test_fp8_on_a_cpu_is_left_by_vllm_for_its_speed(place: Zoo, works: Works):
    """vLLM's CPU kernel for FP8 with a scale per channel loads, gets healthy, and writes one or two tokens a second.

    The bar stands at twice the platform's default, so that a fast machine does not decide about it.
    """
    landed, ladder = place.land(works.make("fp8-dynamic"), VLLM, min_tokens_per_second=BAR)
    print(ladder)
    assert landed == "parked"
    assert [result.reason for result in ladder] == ["too_slow"]
    found = re.fullmatch(
        rf"It (writes (?P<speed>[\d.]+) tokens/s|did not write \d+ tokens in \d+ s), below the {BAR:g} that are "
        r"still usable\.",
        ladder[0].detail,
    )
    assert found, ladder[0].detail
    assert float(found["speed"] or 0) < BAR
