"""Small models for the real quantizer, cut out of the demonstration model without torch."""

import json
import re
import struct
from pathlib import Path

LAYER = re.compile(r"\.layers\.(\d+)\.")
BF16_NAN = b"\xc0\x7f"


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
