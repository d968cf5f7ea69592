"""Reports as HTML: one file each, that loads nothing and runs no script."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import PackageLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from modelops_dagster.clients.reports.gathering import LaneReport, ModelReport, gather_leaderboard, gather_model
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.pictures import Curve, Span, curves, intervals, short
from modelops_dagster.domain.policies import shown
from modelops_dagster.domain.summary import interval, verdict_table

MAX_SAID, MAX_NAME, MAX_FLIPS_SEEN = 400, 24, 8
MAX_GROUPS, MAX_BARS, MAX_LINES = 14, 25, 8
LATENCIES = (("ttft_p50_ms", "TTFT p50"), ("ttft_p95_ms", "TTFT p95"), ("e2el_p95_ms", "end to end p95"))


def model_page(report: ModelReport) -> str:
    """The page of one model."""
    return _page(
        "model.html",
        title=f"{report.repo_id}: {', '.join(f'{x.verdict.lane} {x.verdict.outcome}' for x in report.lanes)}",
        report=report,
        pictures={lane.verdict.lane: _pictures(lane) for lane in report.lanes},
        criteria=verdict_table,
        made_at=report.made_at,
    )


def leaderboard_page(rows: Sequence[Row], made_at: datetime, links: Mapping[str, str] | None = None) -> str:
    """The page of all models; `links` are the pages of those that have one, by repo_id."""
    groups = [(digest, list(own)) for digest, own in groupby(rows, key=lambda r: r["quality_digest"])]
    tones = {"pass": "pass", "hold": "hold", "fail": "fail"}
    pictures = []
    for _, own in groups:
        spans = [
            Span(
                label=r["repo_id"] if r["lane"] == "raw" else f"{r['repo_id']}:{r['lane']}",
                value=r["accuracy"],
                low=r["accuracy_low"],
                high=r["accuracy_high"],
                tone=tones.get(r["verdict"], "plain"),
            )
            for r in own[:MAX_BARS]
            if r["accuracy"] is not None
        ]
        pictures.append(Markup(intervals(spans)) if spans else "")  # noqa: S704 - every text in it is escaped
    return _page(
        "leaderboard.html",
        title="Leaderboard",
        rows=rows,
        groups=groups,
        pictures=pictures,
        links=links or {},
        shown=MAX_BARS,
        made_at=made_at,
    )


def write_reports(store: ScoreStore, folder: Path, repo_ids: Sequence[str], made_at: datetime) -> Path:
    """Write the pages of some models and the leaderboard that links to every page there is; returns the leaderboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for repo_id in repo_ids:
        page = model_page(gather_model(store, repo_id, made_at))
        write_whole(folder / page_name(repo_id), page, is_durable=False)
    rows = gather_leaderboard(store)
    names = {r["repo_id"]: page_name(r["repo_id"]) for r in rows}
    links = {repo_id: quote(name) for repo_id, name in names.items() if (folder / name).is_file()}
    write_whole(folder / "leaderboard.html", leaderboard_page(rows, made_at, links), is_durable=False)
    return folder / "leaderboard.html"


def stale_reports(store: ScoreStore, folder: Path) -> list[str]:
    """Models that were decided about after their page was written, or have none."""

    def written_at(repo_id: str) -> float:
        path = folder / page_name(repo_id)
        return path.stat().st_mtime if path.is_file() else 0.0

    newest: dict[str, float] = {}
    for verdict in store.latest_verdicts():
        newest[verdict.repo_id] = max(newest.get(verdict.repo_id, 0.0), verdict.decided_at.timestamp())
    return sorted(repo_id for repo_id, at in newest.items() if written_at(repo_id) < at)


def page_name(repo_id: str) -> str:
    """The file of a model's page; '@' cannot occur in a repository's name."""
    return f"{repo_id.replace('/', '@')}.html"


def _page(template: str, **values: Any) -> str:
    environment = SandboxedEnvironment(
        loader=PackageLoader("modelops_dagster.clients.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    folder = Path(__file__).parent
    style = Markup((folder / "style.css").read_text())  # noqa: S704 - a file of ours
    return environment.get_template(template).render(
        style=style,
        number=lambda value: "–" if value is None else shown(value),
        span=lambda low, high: interval(low, high) or "–",
        cut=_cut,
        flips_seen=MAX_FLIPS_SEEN,
        asked=_asked,
        counted=counted,
        **values,
    )


def _pictures(lane: LaneReport) -> dict[str, Any]:
    tones = {c.metric: c.outcome for c in lane.verdict.criteria}
    spans = [
        Span(
            label=f"{c.suite}.{c.metric}", value=c.value, low=c.ci_low, high=c.ci_high, bar=_bar(c.rule), tone=c.outcome
        )
        for c in lane.verdict.criteria
        if c.value is not None and 0 <= c.value <= 1
    ]
    compared = [
        Span(
            label=f"{c.suite}.{c.metric}", value=c.difference, low=c.low, high=c.high, bar=-c.margin,
            tone=tones.get(c.metric, "plain"),
        )
        for c in lane.verdict.comparisons
        if c.difference is not None
    ]  # fmt: skip
    drawn: dict[str, Any] = {
        "criteria": intervals(spans) if spans else "",
        "compared": intervals(compared, low=-0.1, high=0.1, zero=True) if compared else "",
        "groups": [*_group_pictures(lane.categories, "category"), *_group_pictures(lane.clusters, "cluster")],
        "history": list(_history_pictures(lane.history)),
        "load": list(_load_pictures(lane.load)),
    }
    # every text in a picture is escaped where it is drawn
    marked: dict[str, Any] = {
        key: [(name, Markup(svg)) for name, svg in value] if isinstance(value, list) else Markup(value)  # noqa: S704
        for key, value in drawn.items()
    }
    return marked


def _group_pictures(groups: Sequence[Row], kind: str) -> Iterator[tuple[str, str]]:
    for suite, own in groupby(groups, key=lambda g: g["suite"]):
        worst = list(own)
        spans = [
            Span(label=f"{short(g['name'], MAX_NAME)} ({g['n']})", value=g["mean"], low=g["low"], high=g["high"])
            for g in worst
        ]
        more = f", the worst {MAX_GROUPS} of {len(spans)}" if len(spans) > MAX_GROUPS else ""
        if len(spans) > 1:
            yield f"{suite} by {kind}{more}; samples in parentheses", intervals(spans[:MAX_GROUPS])


def _history_pictures(history: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """One picture per metric that has at least two values on the newest instrument, newest last."""
    drawn = 0
    for (suite, metric), found in groupby(history, key=lambda h: (h["suite"], h["metric"])):
        rows = list(found)
        own = [h for h in rows if h["instrument"] == rows[-1]["instrument"]]
        if len(own) < 2 or ":" in metric or drawn >= MAX_LINES or not all(0 <= h["value"] <= 1 for h in own):
            continue
        drawn += 1
        spans = [
            Span(
                label=f"{h['evaluated_at']:%m-%d} {h['commit_hash'][:8]}", value=h["value"], low=h["ci_low"],
                high=h["ci_high"],
            )
            for h in own[-6:]
        ]  # fmt: skip
        yield f"{suite}.{metric}", intervals(spans)


def _load_pictures(load: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for loop, found in groupby(load, key=lambda row: row["loop"]):
        rows = list(found)
        if len(rows) < 2:
            continue
        x_label = "requests at a time" if loop == "closed" else "requests/s offered"

        def line(column: str, label: str, rows: Sequence[Row] = rows) -> Curve:
            points = [(float(r["level"]), r[column]) for r in rows if r[column] is not None]
            return Curve(label=label, points=tuple(points))

        speed = line("output_tokens_per_s", "tokens/s")
        yield f"Throughput, {loop} loop", curves([speed], x_label=x_label, y_label="output tokens/s")
        times = [line(column, label) for column, label in LATENCIES]
        if any(curve.points for curve in times):
            yield f"Latency in ms, {loop} loop", curves(times, x_label=x_label, y_label="ms")


def _bar(rule: str) -> float | None:
    """The number that a rule ends with, e.g. of 'lower bound >= 0.60'."""
    found = re.search(r"[-+]?\d*\.?\d+$", rule.strip())
    return float(found[0]) if found else None


def _cut(text: str | None) -> str:
    return "" if text is None else text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}…"


def _asked(text: str | None) -> str:
    """A sample's input as a person reads it: the last message, where it is a conversation."""
    try:
        read = json.loads(text or "")
    except ValueError:
        return _cut(text)
    if isinstance(read, list) and read and isinstance(read[-1], dict):
        return _cut(str(read[-1].get("content", "")))
    return _cut(read if isinstance(read, str) else text)
