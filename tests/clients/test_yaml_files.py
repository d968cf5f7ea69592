"""Reading what people write as YAML."""

from pathlib import Path

import pytest

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.errors import InvalidSpec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: [", r"f\.yaml:2 is not YAML \(.*\): correct it"),
        (b"token: sk-secret\n  b: 1\n", r"f\.yaml:2 is not YAML"),
        (b"!!python/object/apply:os.system [ls]", r"f\.yaml:1 is not YAML"),
        (b"name: \xff", r"f\.yaml is not YAML \('utf-8' codec"),
    ],
)
def test_what_does_not_hold_is_one_sentence_without_the_content(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidSpec, match=said) as caught:
        read_yaml(path, field="--config")
    assert caught.value.field == "--config"
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_what_holds(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    with pytest.raises(FileNotFoundError):
        read_yaml(path)
    path.write_text("")
    assert read_yaml(path) is None
    path.write_text("a: ü", encoding="utf-8")
    assert read_yaml(path) == {"a": "ü"}
    with pytest.raises(InvalidSpec, match="cannot be read"):
        read_yaml(tmp_path)
