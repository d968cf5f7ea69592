"""The Watcher: its state on disk, one tick over the organisations that are due, its whitelist file."""

from modelops_dagster.clients.watcher.detections import DetectionLog, Position
from modelops_dagster.clients.watcher.poll import TickReport, Watcher
from modelops_dagster.clients.watcher.store import WatchStore
from modelops_dagster.clients.watcher.whitelist import load_watchlist

__all__ = ["DetectionLog", "Position", "TickReport", "WatchStore", "Watcher", "load_watchlist"]
