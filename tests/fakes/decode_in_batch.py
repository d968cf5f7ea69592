"""Decode three sequences of different lengths alone and side by side: `python decode_in_batch.py MODEL_FOLDER…`.

Run with the `transformers` engine's own interpreter and this package's workers on the path. In float32, where a batch
rounds next to nothing; sequences join while others are under way, one leaves in the middle, and the longest one is
longer than the sliding windows of the zoo. Prints one JSON line per model.
"""

import json
import sys

import torch
import transformers
from serve_transformers.batching import Apart, Batch, Together, batch_for

LENGTHS = (5, 200, 30)
STEPS = 24
LEAVES_AFTER = 10  # the second one


def decode(batch: Batch, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy tokens of each prompt; one more joins every other step."""
    written: list[list[int]] = [[] for _ in prompts]
    present: list[int] = []
    for step in range(STEPS):
        if step % 2 == 0 and step // 2 < len(prompts):
            index = step // 2
            logits, state = batch.read(prompts[index])
            written[index].append(int(logits.argmax()))
            batch.join(state)
            present.append(index)
        if step == LEAVES_AFTER:
            batch.keep([place for place, index in enumerate(present) if index != 1])
            present.remove(1)
        for index, logits in zip(present, batch.step([written[i][-1] for i in present]), strict=True):
            written[index].append(int(logits.argmax()))
    return written


def main() -> None:
    for folder in sys.argv[1:]:
        config = transformers.AutoConfig.from_pretrained(folder)
        text_only = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        auto = transformers.AutoModelForCausalLM if text_only else transformers.AutoModelForImageTextToText
        model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(0)
        prompts = [torch.randint(10, 40000, (length,), generator=generator).tolist() for length in LENGTHS]
        with torch.inference_mode():
            chosen = batch_for(model, prompts[1:])
            alone = decode(Apart(model), prompts)
            beside = decode(chosen, prompts)
        found = {"together": isinstance(chosen, Together), "same": alone == beside}
        print(json.dumps({"model": folder.rpartition("/")[2], **found, "tokens": sum(map(len, alone))}), flush=True)


if __name__ == "__main__":
    main()
