"""The real quantizer with a store of its own, and small models cut out of the demonstration model without torch."""

import json
import re
import struct
from pathlib import Path

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.quantization import Recipe
from modelops_dagster.domain.recovery import Recovery
from modelops_dagster.settings import data_folder
from tests.clients.quantizing import put_checkpoint

LAYER = re.compile(r"\.layers\.(\d+)\.")
BF16_NAN = b"\xc0\x7f"
FOUR_BITS = Recipe.model_validate(
    {"name": "four", "version": 1, "description": "d", "scheme": "W4A16", "method": "rtn", "group_sizes": [128, 64, 32]}
)


class Works:
    """A store that holds one released model, and the real quantizer."""

    def __init__(self, folder: Path, registry: EngineRegistry, model: Path, **limits: float) -> None:
        self.recipes, self.work = RecipeFolder(data_folder("quantization")), folder / "work"
        self.store = CheckpointStore(folder / "checkpoints")
        self.source = put_checkpoint(self.store, model)
        self.quantizer = Quantizer(registry, self.recipes, self.work, **limits)  # type: ignore[arg-type]

    def make(self, recipe: str | Recipe) -> Checkpoint:
        chosen = self.recipes.recipe(recipe) if isinstance(recipe, str) else recipe
        made = self.quantizer.quantize(self.source, chosen, self.store, print)
        print(f"{chosen.name}: {made.size_bytes / 1e6:.1f} MB, {made.derivation}")
        return made

    def compare(self, candidate: Checkpoint, windows: int = 4) -> Recovery:
        policy = self.recipes.policy("default").model_copy(update={"max_windows": windows, "min_tokens": 500})
        found = self.quantizer.compare(self.source, candidate, policy, "int8", lambda line: None)
        print(f"{candidate.scheme}: {found.outcome}, {found.reason}, {found.findings.measured}")
        return found

    def left(self) -> list[str]:
        return [p.name for p in Path(self.source.directory).parent.iterdir() if p.name != "a" * 40]


def cut(model: Path, target: Path, layers: int = 2, **config: object) -> Path:
    """The model's first layers: the same widths and tokenizer, a fraction of the work."""
    target.mkdir(parents=True)
    for path in model.iterdir():
        if path.name not in ("model.safetensors", "config.json"):
            (target / path.name).write_bytes(path.read_bytes())
    stated = json.loads((model / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**stated, "num_hidden_layers": layers, **config}))
    data = (model / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kept: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces, position = [], 0
    for name, tensor in header.items():
        layer = LAYER.search(name)
        if name == "__metadata__" or (layer and int(layer[1]) >= layers):
            continue
        begin, end = tensor["data_offsets"]
        kept[name] = {**tensor, "data_offsets": [position, position + end - begin]}
        pieces.append(body[begin:end])
        position += end - begin
    written = json.dumps(kept).encode()
    (target / "model.safetensors").write_bytes(struct.pack("<Q", len(written)) + written + b"".join(pieces))
    return target


def spoil(checkpoint: Path, ending: str) -> str:
    """Put one NaN into the first BF16 tensor whose name ends so; returns the name."""
    path = checkpoint / "model.safetensors"
    path.chmod(0o644)
    with path.open("r+b") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        name = next(n for n, t in header.items() if n.endswith(ending) and t.get("dtype") == "BF16")
        file.seek(8 + size + header[name]["data_offsets"][0])
        file.write(BF16_NAN)
    return name
