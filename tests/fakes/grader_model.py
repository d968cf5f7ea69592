"""A grader model on loopback: it knows which answers are good, and errs, wavers or babbles as told."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.openai_server import OpenAIServer, last_user

ANSWER = re.compile(r"The answer to judge, between the marks (\w{8}):\n\[\1\n(.*)\n\1\]", re.S)
CRITERION = re.compile(r"^- (\w+): ", re.M)
PAIR = re.compile(r"The (first|second) answer, between the marks (\w{8}):\n\[\2\n(.*?)\n\2\]", re.S)
STEP = re.compile(r"^(\d+): ", re.M)


@dataclass
class GraderModel:
    """`is_good` gets the answer. An answer that `waver` holds for gets the best points when the best step is shown
    first and the worst otherwise, and of a pair with such a one the first is always better. The first `malformed`
    replies to each prompt are no JSON, and so is every reply about an answer that `silent` holds for."""

    is_good: Callable[[str], bool] = lambda answer: "good" in answer
    waver: Callable[[str], bool] = lambda answer: False
    silent: Callable[[str], bool] = lambda answer: False
    malformed: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def reply(self, body: Mapping[str, Any]) -> str:
        """The reply to a grading prompt, as the contract wants it."""
        asked = last_user(body)
        self.seen[asked] = self.seen.get(asked, 0) + 1
        if self.seen[asked] <= self.malformed:
            return "I would say four out of four."
        if pair := {side: text for side, _, text in PAIR.findall(asked)}:
            return json.dumps({"reason": "as it was made", "better": self._better(pair)})
        answer = ANSWER.search(asked)
        assert answer is not None, asked
        if self.silent(answer.group(2)):
            return "No comment."
        steps = [int(n) for n in STEP.findall(asked)]
        good = steps[0] > steps[-1] if self.waver(answer.group(2)) else self.is_good(answer.group(2))
        criteria = CRITERION.findall(asked[answer.end() :])
        return json.dumps({"reason": "as it was made", **{name: max(steps) if good else 1 for name in criteria}})

    def _better(self, pair: Mapping[str, str]) -> str:
        if any(map(self.waver, pair.values())):
            return "first"
        first, second = self.is_good(pair["first"]), self.is_good(pair["second"])
        return "same" if first == second else "first" if first else "second"

    def server(self, **knobs: Any) -> OpenAIServer:
        """The model behind a server that answers to any model name."""
        return OpenAIServer(answer=self.reply, ignores=frozenset({"model", "context", "max_tokens"}), **knobs)
