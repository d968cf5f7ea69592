"""The requests behind the contract checks. Each is made once and shared by every check that looks at it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.contract import HttpAnswer
from modelops_dagster.domain.gauntlet.prompts import COLOUR_SCHEMA, HISTORY, PANEL, STORY, STORY_TOKENS, SYSTEM_PROMPT
from modelops_dagster.domain.gauntlet.suite import ContractSettings

FILLER = "one two three four five six seven eight nine ten "
FILLER_WORDS = 10
LEAVES_AFTER_S = 0.2
REASONING_FACTOR = 16
"""A model that reasons gets so many times the panel's tokens, or it would never reach an answer."""


class Probes:
    """Observations by name, made when first asked for. Settle them with `observe`, forget them with `forget`."""

    def __init__(self, client: InferenceClient, settings: ContractSettings, model: str, max_context: int) -> None:
        self._client = client
        self._settings = settings
        self._model = model
        self._max_context = max_context
        self._made: dict[str, asyncio.Task[Any]] = {}
        self._probes: Mapping[str, Callable[[], Awaitable[Any]]] = {
            "panel": self._panel,
            "streamed": lambda: self._panel_answer(0, stream=True),
            "again": lambda: self._panel_answer(0),
            "with_system": self._with_system,
            "story": lambda: self._chat(STORY, STORY_TOKENS),
            "stopped": self._stopped,
            "seeded": self._seeded,
            "logprobs": lambda: self._chat(PANEL[3], 8, logprobs=True, top_logprobs=1),
            "json": self._json,
            "tool": self._tool,
            "completions": self._completions,
            "health": lambda: self._client.ask_plain("GET", self._at_root("/health")),
            "models": lambda: self._client.ask_plain("GET", self._client.url + "/models"),
            "unknown_model": lambda: self._raw_chat(self._body("Hello.", 4) | {"model": "no-such-model-here"}),
            "bad_request": lambda: self._raw_chat(self._body("Hello.", 4) | {"max_tokens": -1}),
            "tokens": self._tokens,
            "nearly_full": self._nearly_full,
            "overlong": self._overlong,
            "history": self._history,
            "after_disconnect": self._after_disconnect,
            "burst": self._burst,
        }

    def observe(self, name: str) -> asyncio.Task[Any]:
        """The observation, being made or made."""
        if name not in self._made:
            self._made[name] = asyncio.ensure_future(self._probes[name]())
        return self._made[name]

    def forget(self, name: str) -> None:
        """Make the observation anew the next time."""
        self._made.pop(name, None)

    async def close(self) -> None:
        """Cancel what is still being made."""
        for task in self._made.values():
            task.cancel()
        await asyncio.gather(*self._made.values(), return_exceptions=True)

    def _body(self, content: str, max_tokens: int, **more: Any) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": 1,
            **more,
        }

    def _at_root(self, path: str) -> str:
        parts = urlsplit(self._client.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/v1") + path, "", ""))

    async def _chat(self, content: str, max_tokens: int, **more: Any) -> Completion:
        return await self._client.complete(self._body(content, max_tokens, **more))

    async def _raw_chat(self, body: Mapping[str, Any]) -> HttpAnswer:
        return await self._client.ask_plain("POST", self._client.url + "/chat/completions", body)

    async def _panel_answer(self, index: int, *, stream: bool = False) -> Completion:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        got = await self._chat(PANEL[index], self._settings.panel_max_tokens, **more)
        if got.is_ok and got.finish_reason == "length" and (got.reasoning or "<think>" in got.text):
            got = await self._chat(PANEL[index], self._settings.panel_max_tokens * REASONING_FACTOR, **more)
        return got

    async def _panel(self) -> list[Completion]:
        return list(await asyncio.gather(*(self._panel_answer(i) for i in range(len(PANEL)))))

    async def _with_system(self) -> Completion:
        body = self._body(PANEL[0], 1)
        return await self._client.complete(
            body | {"messages": [{"role": "system", "content": SYSTEM_PROMPT}, *body["messages"]]}
        )

    async def _history(self) -> Completion:
        turns = [{"role": "user", "content": HISTORY[0]}, {"role": "assistant", "content": HISTORY[1]}]
        body = self._body(HISTORY[2], self._settings.panel_max_tokens)
        return await self._client.complete(body | {"messages": [*turns, *body["messages"]]})

    async def _after_disconnect(self) -> Completion:
        """Leave while a stream is being sent, then ask for a little."""
        leaving = asyncio.ensure_future(self._chat(STORY, self._settings.panel_max_tokens, stream=True))
        await asyncio.wait({leaving}, timeout=LEAVES_AFTER_S)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        return await self._chat(PANEL[3], 4)

    async def _stopped(self) -> tuple[str, Completion] | None:
        """Stop at a word the model is known to write: the fourth or a later one of its own story."""
        story: Completion = await self.observe("story")
        words = [w.strip(".,;:!?\"'") for w in story.text.split()]
        word = next((w for i, w in enumerate(words) if i >= 3 and len(w) >= 4 and w not in words[:i]), None)
        return None if word is None else (word, await self._chat(STORY, STORY_TOKENS, stop=[word]))

    async def _seeded(self) -> tuple[Completion, Completion]:
        one, two = await asyncio.gather(
            *(self._chat(STORY, STORY_TOKENS // 2, temperature=1, seed=7) for _ in range(2))
        )
        return one, two

    async def _json(self) -> Completion:
        schema = {"type": "json_schema", "json_schema": {"name": "paint", "schema": COLOUR_SCHEMA, "strict": True}}
        return await self._chat("Which colour is grass? Answer as JSON.", 32, response_format=schema)

    async def _tool(self) -> Completion:
        tool = {
            "type": "function",
            "function": {"name": "paint", "description": "Paint it.", "parameters": COLOUR_SCHEMA},
        }
        named = {"type": "function", "function": {"name": "paint"}}
        return await self._chat("Paint the wall in the colour of grass.", 32, tools=[tool], tool_choice=named)

    async def _completions(self) -> Completion:
        body = {"model": self._model, "prompt": "The sea is", "max_tokens": 4, "temperature": 0}
        return await self._client.complete(body, api="completions")

    async def _tokens(self) -> list[int] | None:
        messages = [{"role": "user", "content": "Hello."}]
        answer = await self._client.ask_plain(
            "POST", self._at_root("/tokenize"), {"model": self._model, "messages": messages}
        )
        found = answer.body.get("tokens") if isinstance(answer.body, dict) else None
        return found if answer.status == 200 and isinstance(found, list) else None

    def _is_fillable(self) -> bool:
        return 0 < self._max_context <= self._settings.max_probe_context

    async def _nearly_full(self) -> Completion | None:
        """Fill most of the context. Tokens per filler come from the usage of two prompts of known length."""
        if not self._is_fillable():
            return None
        short, longer = await asyncio.gather(*(self._chat(FILLER * n, 1) for n in (2, 4)))
        if not (short.tokens_in and longer.tokens_in):
            return short if not short.is_ok else None
        each = (longer.tokens_in - short.tokens_in) / 2
        room = self._max_context * self._settings.context_share - (short.tokens_in - 2 * each)
        return await self._chat(FILLER * max(1, int(room / each)), 1)

    async def _overlong(self) -> HttpAnswer | None:
        if not self._is_fillable():
            return None
        # a word is at least one token, so this exceeds any context of max_context tokens
        return await self._raw_chat(self._body(FILLER * (self._max_context // FILLER_WORDS + 10), 4))

    async def _burst(self) -> list[Completion]:
        """Send at once, through a pool wide enough, when nothing else is under way."""
        await asyncio.gather(*(t for n, t in self._made.items() if n != "burst"), return_exceptions=True)
        wide = InferenceClient(
            self._client.url,
            concurrency=self._settings.burst,
            attempt_timeout_s=self._client.attempt_timeout_s,
            retries=0,
            api_key=self._client.api_key,
            transport=self._client.transport,
        )
        async with wide:
            return list(
                await asyncio.gather(*(wide.complete(self._body(f"Say {i}.", 1)) for i in range(self._settings.burst)))
            )
