"""Amounts of CPU and memory as people and Kubernetes write them: `2`, `500m`; `16`, `16Gi`, `512Mi`."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Mi|Gi|Ti)?")
_GI = {"Mi": 1 / 1024, "Gi": 1.0, "Ti": 1024.0}


def _vcpu(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _CPU.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value!r} is not an amount of CPU: write a number of vCPU such as 2, or 500m")
    return float(found[1]) / (1000 if found[2] else 1)


def _gib(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _MEMORY.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value!r} is not an amount of memory: write a number of Gi such as 16, 16Gi or 512Mi")
    return float(found[1]) * _GI[found[2] or "Gi"]


_Number = Annotated[float, Field(gt=0, le=1 << 20, allow_inf_nan=False)]
_VcpuText = Annotated[str, Field(pattern=f"^{_CPU.pattern}$")]
_GibText = Annotated[str, Field(pattern=f"^{_MEMORY.pattern}$")]
Cpu = Annotated[_Number, BeforeValidator(_vcpu, json_schema_input_type=_Number | _VcpuText)]
"""vCPU of one replica."""
Memory = Annotated[_Number, BeforeValidator(_gib, json_schema_input_type=_Number | _GibText)]
"""Gi of one replica."""
