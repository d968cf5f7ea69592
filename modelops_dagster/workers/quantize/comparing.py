"""How much of the original a quantized checkpoint kept, on text that it was not calibrated on.

The original is run once in its own precision and once in FP32; what lies between the two is the noise floor, below
which no difference means anything. All figures are over next-token distributions of the same tokens.

    perplexity ratio   exp(mean NLL of the candidate - mean NLL of the original)
    KL                 sum over the vocabulary of p_original * (log p_original - log p_candidate), per token, in nats
    top-1 agreement    share of tokens for which both name the same most likely next token
"""

import gc
import json
import math
from pathlib import Path
from typing import Any

from .files import look_at_files
from .reports import Reporter
from .texts import read_texts, windows

Z95 = 1.959964
TELL_EVERY = 4  # windows


def compare(request: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Compare `request["candidate"]` with `request["original"]`.

    Returns:
        The findings of `files.look_at_files`, with `loads`, `unmeasured` (why there are no numbers, or empty),
        `measured` and `noise` (the four numbers, or None), `n_tokens`, `n_windows`.
    """
    original, candidate = Path(request["original"]), Path(request["candidate"])
    reporter.say("reading every tensor")
    found: dict[str, Any] = {"loads": None, "unmeasured": "", "measured": None, "noise": None}
    found |= {"n_tokens": 0, "n_windows": 0, **look_at_files(original, candidate, request["scheme"])}
    if found["problems"]:
        return {**found, "unmeasured": "the files are not sound"}
    from transformers import AutoTokenizer

    reporter.say("loading the candidate")
    try:
        model = _load(candidate)
    except Exception as error:
        if _is_unknown(original):
            return {**found, "unmeasured": "this Transformers does not know the architecture; only files were checked"}
        return {**found, "loads": False, "problems": [f"it does not load: {_said(error)}"]}
    tokenizer = AutoTokenizer.from_pretrained(original, local_files_only=True, trust_remote_code=False)
    ids = windows(
        read_texts(Path(request["texts"])),
        tokenizer,
        window_tokens=request["window_tokens"],
        max_windows=request["max_windows"],
    )
    try:
        _logits(model, ids[:1, :8])
    except Exception as error:
        return {**found, "loads": False, "problems": [f"it loads and does not run: {_said(error)}"]}
    del model
    gc.collect()
    reference = [_logits(m, row[None]) for m in [_load(original)] for row in _told(ids, reporter, "original")]
    gc.collect()
    noise = _numbers(_load(original, "float32"), reference, ids, reporter, "noise floor")
    gc.collect()
    measured = _numbers(_load(candidate), reference, ids, reporter, "candidate")
    return {
        **found,
        "loads": True,
        "noise": noise,
        "measured": measured,
        "n_tokens": int(ids.shape[0] * (ids.shape[1] - 1)),
        "n_windows": int(ids.shape[0]),
    }


def _load(checkpoint: Path, dtype: str = "auto") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    placed = "auto" if torch.cuda.is_available() else None
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=dtype, device_map=placed, local_files_only=True, trust_remote_code=False
    )
    return model.eval()


def _is_unknown(checkpoint: Path) -> bool:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError):
        return True
    return False


def _logits(model: Any, ids: Any) -> Any:
    """Shape (tokens, vocabulary), on the CPU, in the model's own precision."""
    import torch

    with torch.no_grad():
        return model(ids.to(model.device)).logits[0].cpu()


def _told(ids: Any, reporter: Reporter, what: str) -> Any:
    for index, row in enumerate(ids):
        if index % TELL_EVERY == 0:
            reporter.say(f"{what}: window", index + 1, len(ids))
        yield row


def _numbers(model: Any, reference: list[Any], ids: Any, reporter: Reporter, what: str) -> dict[str, float]:
    """The figures of one model against the reference's logits. A NaN in any logit makes every figure NaN."""
    import torch

    kl, agree, differences, nll, nll_reference = [], [], [], [], []
    for row, kept in zip(_told(ids, reporter, what), reference, strict=True):
        ours = _logits(model, row[None]).float().log_softmax(-1)
        theirs = kept.float().log_softmax(-1)
        kl.append((theirs.exp() * (theirs - ours)).sum(-1))
        agree.append((theirs.argmax(-1) == ours.argmax(-1)).float())
        loss, loss_reference = (-lp[:-1].gather(-1, row[1:, None]).mean().item() for lp in (ours, theirs))
        nll.append(loss)
        nll_reference.append(loss_reference)
        differences.append(loss - loss_reference)
    all_kl = torch.cat(kl)
    mean = sum(differences) / len(differences)
    half = Z95 * _deviation(differences) / math.sqrt(len(differences))
    return {
        "perplexity_original": math.exp(sum(nll_reference) / len(nll_reference)),
        "perplexity": math.exp(sum(nll) / len(nll)),
        "perplexity_ratio": math.exp(mean),
        "perplexity_ratio_low": math.exp(mean - half),
        "perplexity_ratio_high": math.exp(mean + half),
        "mean_kl": all_kl.mean().item(),
        "kl_p99": all_kl.quantile(0.99).item(),
        "top1_agreement": torch.cat(agree).mean().item(),
    }


def _deviation(values: list[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _said(error: Exception) -> str:
    """The error's first line, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return json.dumps(f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300])[1:-1]
