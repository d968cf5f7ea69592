"""What a change of a route changes, in words."""

from modelops_dagster.domain.gateway import SETTINGS, Route, RouteTarget, deployment_id


def route_diff(old: Route | None, new: Route | None) -> list[str]:
    """What changed, a line per target, as a person reads it; empty when nothing did."""
    before = {t.endpoint: t for t in old.targets} if old else {}
    after = {t.endpoint: t for t in new.targets} if new else {}
    lines = [f"- {deployment_id(before[name])}: {_share(before[name])}" for name in before if name not in after]
    for name, target in after.items():
        was = before.get(name)
        if was is None:
            lines.append(f"+ {deployment_id(target)}: {_share(target)}")
        elif changes := _changes(was, target):
            lines.append(f"~ {deployment_id(target)}: {', '.join(changes)}")
    if old is not None and new is not None:
        lines += [
            f"~ {name} {getattr(old, name)} -> {getattr(new, name)}"
            for name in SETTINGS
            if getattr(old, name) != getattr(new, name)
        ]
    if old is None and new is not None:
        lines.insert(0, f"new route {new.alias}")
    if old is not None and new is None:
        lines.append(f"no route {old.alias} any more")
    return lines


def _share(target: RouteTarget) -> str:
    return f"weight {target.weight}, {'for ' + ', '.join(target.tags) if target.tags else 'for everybody'}"


def _changes(was: RouteTarget, now: RouteTarget) -> list[str]:
    pairs = {
        "commit": (was.commit_hash[:12], now.commit_hash[:12]),
        "weight": (str(was.weight), str(now.weight)),
        "tags": (", ".join(was.tags) or "none", ", ".join(now.tags) or "none"),
        "url": (was.url, now.url),
        "served name": (was.served_model_name, now.served_model_name),
        "mirrored": (f"{was.mirror_percent} %", f"{now.mirror_percent} %"),
        "USD per hour": (f"{was.usd_per_hour:g}", f"{now.usd_per_hour:g}"),
        "provider": (was.provider or "ours", now.provider or "ours"),
        "credential": (was.credential or "none", now.credential or "none"),
        "provider settings": (_settings(was), _settings(now)),
        "timeout": (_seconds(was.timeout_s), _seconds(now.timeout_s)),
        "granted by": (_granted_by(was), _granted_by(now)),
    }
    return [f"{name} {a} -> {b}" for name, (a, b) in pairs.items() if a != b]


def _settings(target: RouteTarget) -> str:
    return ", ".join(f"{name} {value}" for name, value in target.provider_settings.items()) or "none"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:g} s"


def _granted_by(target: RouteTarget) -> str:
    grant = target.grant
    if grant is None:
        return "nobody"
    return f"verdict {grant.verdict_id}" if grant.verdict_id else f"{grant.by}: {grant.reason}"
