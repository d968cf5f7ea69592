"""What a checkpoint can be quantized to. Apart, because checkpoints and engines both name it."""

from typing import Literal

Scheme = Literal["raw", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "W4A16"]
