"""What does not hold in a file, in words that its author knows."""

from typing import Any

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.gauntlet.grading import GradersFile


@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        ({"graders": 3}, "graders", "this has to be a list"),
        ([], "", "this has to be a mapping"),
        ({"graders": ["strict"]}, "graders.0", "this has to be a mapping"),
        ({"graders": [{"url": "http://h"}]}, "graders.0.name", "this field is missing"),
        ({"gradres": []}, "gradres", "this field is not known; check the spelling"),
        ({"graders": [{"name": "a"}]}, "graders.0", "the grader 'a' needs exactly one of endpoint, alias and url"),
        ({"admission": {"labels": "sk-1"}}, "admission.labels", "this has to be a valid integer"),
    ],
)
def test_the_words_are_of_the_file_and_not_of_python(document: Any, where: str, words: str):
    with pytest.raises(ValidationError) as caught:
        GradersFile.model_validate(document)
    field, said = first_fault(caught.value)
    assert (field, said.startswith(words)) == (where, True), said
    assert "sk-1" not in said
