"""`modelops label`: a page on loopback where people judge answers without knowing whose they are."""

from modelops_dagster.services.labelling.app import LabelApp
from modelops_dagster.services.labelling.server import LabelServer

__all__ = ["LabelApp", "LabelServer"]
