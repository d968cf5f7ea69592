"""How a program of the platform ends."""

import pytest

from modelops_dagster.domain.errors import HubUnavailable, PortTaken
from modelops_dagster.services.exits import exit_code


def test_a_users_mistake_is_a_sentence_and_everything_else_is_not_hidden(capsys: pytest.CaptureFixture[str]):
    def fail(error: Exception) -> None:
        raise error

    assert exit_code("controller", lambda: None) == 0
    assert exit_code("controller", lambda: fail(PortTaken("Port 1 is taken."))) == 2
    assert capsys.readouterr().err == "controller: Port 1 is taken.\n"
    with pytest.raises(HubUnavailable):
        exit_code("controller", lambda: fail(HubUnavailable("It is away.")))
