"""Endpoints as Kubernetes objects: what is applied, as pure functions of spec and site, and what facts mean."""

from modelops_dagster.domain.kubernetes.kserve import kserve_service
from modelops_dagster.domain.kubernetes.names import MANAGER, object_name, service_url
from modelops_dagster.domain.kubernetes.platform import platform_objects
from modelops_dagster.domain.kubernetes.render import render
from modelops_dagster.domain.kubernetes.research import ResearchJob, research_job
from modelops_dagster.domain.kubernetes.routes import http_route
from modelops_dagster.domain.kubernetes.site import Site

__all__ = [
    "MANAGER",
    "ResearchJob",
    "Site",
    "http_route",
    "kserve_service",
    "object_name",
    "platform_objects",
    "render",
    "research_job",
    "service_url",
]
