"""How a program of the platform ends."""

import sys
from collections.abc import Callable

from modelops_dagster.domain.errors import UserError


def exit_code(program: str, work: Callable[[], None]) -> int:
    """Do the work to its end.

    Args:
        program: what the sentence of a user's mistake begins with, on stderr.

    Returns:
        0, or 2 when the user must do something.
    """
    try:
        work()
    except UserError as error:
        print(f"{program}: {error.sentence}", file=sys.stderr)
        return 2
    return 0
