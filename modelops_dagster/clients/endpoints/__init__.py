"""Endpoints as they really are: the backend protocol, the processes of this machine, and one record each."""

from modelops_dagster.clients.endpoints.backend import EndpointBackend, Launch, Launcher, Prepared, Replica
from modelops_dagster.clients.endpoints.external import ExternalBackend
from modelops_dagster.clients.endpoints.live import Demand, LiveEndpoint, LiveStore
from modelops_dagster.clients.endpoints.machine import MachineBackend
from modelops_dagster.clients.endpoints.process import ProcessBackend
from modelops_dagster.clients.endpoints.records import EndpointRecord, RecordStore, ReplicaRecord

__all__ = [
    "Demand",
    "EndpointBackend",
    "EndpointRecord",
    "ExternalBackend",
    "Launch",
    "Launcher",
    "LiveEndpoint",
    "LiveStore",
    "MachineBackend",
    "Prepared",
    "ProcessBackend",
    "RecordStore",
    "Replica",
    "ReplicaRecord",
]
