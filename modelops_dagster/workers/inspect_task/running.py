"""The task itself, by Inspect, with what it lacks: an end to tokens, time and patience with a dead endpoint."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[str, int, int], None]


class Tally:
    """What has been used, and why the run is to end."""

    def __init__(self, order: dict[str, Any], say: Say) -> None:
        self.tokens = 0
        self.why = ""
        self.takes: set[str] | None = None
        """Names of the arguments of the tasks that began."""
        self._order, self._say = order, say
        self._done = self._failed_in_a_row = 0

    @property
    def unknown(self) -> list[str]:
        """Arguments that were given and that no task takes; Inspect leaves them out without a word."""
        return [] if self.takes is None else [name for name in self._order["arguments"] if name not in self.takes]

    def count_sample(self, has_failed: bool) -> None:
        """Account for a sample that ended."""
        self._done += 1
        self._failed_in_a_row = self._failed_in_a_row + 1 if has_failed else 0
        self._say(f"{self._done} samples, {self.tokens} tokens", 0, 0)
        if self._failed_in_a_row >= self._order["give_up_after"]:
            self.stop(f"{self._failed_in_a_row} samples in a row failed")

    def stop(self, why: str) -> None:
        """End the run; Inspect writes the samples that are whole when it is interrupted."""
        if not self.why:
            self.why = why
            os.kill(os.getpid(), signal.SIGINT)


def run(order: dict[str, Any], key: str, say: Say) -> dict[str, Any]:
    """Run the ordered tasks of one file; returns the names of the logs, what was used, and why it ended early."""
    say("importing inspect_ai", 0, 0)
    from inspect_ai import eval as evaluate
    from inspect_ai.model import get_model

    tally = Tally(order, say)
    _register(tally, order)
    model = get_model(f"openai-api/modelops/{order['model']}", base_url=order["url"], api_key=key or "none")
    clock = threading.Timer(order["seconds"], tally.stop, (f"the budget of {order['seconds']:.0f} s is used up",))
    clock.daemon = True
    clock.start()
    try:
        evaluate(
            tasks=order["task"],
            model=model,
            model_roles={"grader": _nobody()},
            task_args=order["arguments"],
            log_dir=order["logs"],
            log_format="json",
            log_realtime=False,
            log_images=False,
            log_model_api=False,
            log_buffer=order["log_buffer"],
            display="none",
            score_display=False,
            acp_server=False,
            ctl_server=False,
            notification=False,
            limit=order["samples"],
            fail_on_error=False,
            time_limit=max(1, int(order["sample_seconds"])),
            max_tasks=1,
            max_samples=order["concurrency"],
            max_connections=order["concurrency"],
            max_retries=order["retries"],
            attempt_timeout=max(1, int(order["attempt_timeout_s"])),
        )
    except KeyboardInterrupt:
        if not tally.why:
            raise
    finally:
        clock.cancel()
    if tally.unknown:
        takes = ", ".join(sorted(tally.takes or ())) or "none"
        raise LookupError(f"there is no argument {tally.unknown[0]!r}; it takes {takes}")
    logs = sorted(path.name for path in Path(order["logs"]).glob("*.json"))
    return {"logs": logs, "tokens": tally.tokens, "ended_early": tally.why}


def _register(tally: Tally, order: dict[str, Any]) -> None:
    from inspect_ai.hooks import BeforeModelGenerate, Hooks, ModelUsageData, SampleEnd, TaskStart, hooks
    from inspect_ai.util import LimitExceededError

    @hooks(name="modelops", description="tokens, patience and progress of one run")
    class Limits(Hooks):  # type: ignore[misc]
        async def on_task_start(self, data: TaskStart) -> None:
            tally.takes = (tally.takes or set()) | set(data.spec.task_args)
            if "@" in order["task"] and tally.unknown:
                tally.stop("it has no such argument")

        async def on_before_model_generate(self, data: BeforeModelGenerate) -> None:
            if tally.tokens >= order["tokens"]:
                raise LimitExceededError("custom", value=tally.tokens, limit=order["tokens"], message="no tokens left")

        async def on_model_usage(self, data: ModelUsageData) -> None:
            tally.tokens += data.usage.total_tokens

        async def on_sample_end(self, data: SampleEnd) -> None:
            limit = data.sample.limit
            tally.count_sample(data.sample.error is not None or (limit is not None and limit.type == "time"))


def _nobody() -> Any:
    """A grader that refuses, because Inspect's default is to let the model judge itself."""
    from inspect_ai.model import get_model

    def refuse(*_: object) -> Any:
        raise RuntimeError("the task wants a grader model, and none was given: a model does not judge itself")

    return get_model("mockllm/nobody", custom_outputs=refuse)
