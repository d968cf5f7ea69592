"""Graders for `modelops eval`: who judges what no code can check, and how that is shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import table

if TYPE_CHECKING:
    from modelops_dagster.clients.gauntlet.graders import Known
    from modelops_dagster.clients.gauntlet.panel import Panel
    from modelops_dagster.domain.gauntlet.report import SuiteReport
    from modelops_dagster.domain.gauntlet.suite import Suite
    from modelops_dagster.settings import Settings


def known(settings: "Settings") -> "Known":
    """Where this installation looks up the endpoints and aliases that graders name."""
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.clients.gauntlet.graders import Known
    from modelops_dagster.clients.platform_keys import platform_key
    from modelops_dagster.clients.routes import RouteStore

    return Known(
        lambda name: ModelOpsClient.from_settings(settings).get(name),
        RouteStore(settings.home / "gateway").get,
        settings.gateway_url,
        lambda route: platform_key(settings.home, route, "grader"),
    )


def panel_for(suites: "Sequence[Suite]", settings: "Settings", *, is_named: bool) -> "tuple[Panel | None, list[Suite]]":
    """The graders, and the suites that can be judged with them. A suite nobody can judge is left out, unless named.

    Raises:
        UserError: a grader of `graders.yaml` cannot be asked, or a suite was named that nobody can judge.
    """
    from modelops_dagster.clients.calibrations import open_panel
    from modelops_dagster.clients.gauntlet.graders import load_graders
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import UserError

    if not any(suite.groups_to_grade for suite in suites):
        return None, list(suites)
    store = ScoreStore(settings.home / "scores")
    whole = load_suites(settings.eval_datasets)  # labels of samples that are not asked now count as well
    panel = open_panel(load_graders(settings.home, settings.eval_datasets), known(settings), store, whole)
    if panel.notes:
        raise UserError(panel.notes[0])
    left = [s for s in suites if s.needs_graders and not panel.graders]
    if left and is_named:
        raise UserError(
            f"Only a grader can judge the suite {left[0].name!r}, and there is none: name one in "
            f"{settings.home / 'graders.yaml'}, as docs/grading.md says."
        )
    for suite in left:
        click.echo(f"{suite.name}: only a grader can judge it, and graders.yaml names none; it is left out.", err=True)
    return panel, [s for s in suites if s not in left]


def render_grading(report: "SuiteReport") -> None:
    """What graders said of a suite, and what counts of it."""
    if report.graders:
        columns = ("grader", "category", "counts", "n", "passed", "no verdict", "flips", "as the first")
        rows = [
            (
                g.grader,
                g.category,
                "yes" if g.counts else "advisory",
                g.n,
                None if g.passed is None else f"{g.passed:.3f}",
                g.no_verdict,
                *(None if share is None else f"{share:.3f}" for share in (g.flip_rate, g.agrees)),
            )
            for g in report.graders
        ]
        table("", columns, rows)
    for note in report.notes:
        click.echo(f"  {note}")
