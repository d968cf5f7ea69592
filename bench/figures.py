"""What a benchmark yields."""

import json
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured number. `against` says what a ratio compares with, or the bar it should meet."""

    bench: str
    metric: str
    value: float
    unit: str
    against: str

    def line(self) -> str:
        return json.dumps({**self._asdict(), "value": round(self.value, 4)})
