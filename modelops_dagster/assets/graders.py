"""The graders that a step puts answers to."""

from collections.abc import Sequence

from modelops_dagster.clients.gauntlet.graders import Known
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.resources.platform import ControllerResource, GatewayResource, GauntletResource, ScoreResource


def grader_panel(
    suites: Sequence[Suite],
    gauntlet: GauntletResource,
    scores: ScoreResource,
    gateway: GatewayResource,
    controller: ControllerResource,
) -> Panel:
    """The graders that can be asked now, where a suite needs any."""
    if not any(suite.groups_to_grade for suite in suites):
        return Panel()
    known = Known(lambda name: controller.client().get(name), gateway.routes().get, gateway.url, gateway.grader_key)
    return gauntlet.panel(known, scores.store(), suites)
