"""What an engine's command line takes, and whether given arguments hold, without starting anything."""

import itertools
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.values import Value

Kind = Literal["switch", "int", "float", "text", "other"]
MAX_CHOICES_SHOWN = 12
_NUMBER = re.compile(r"-\d+(\.\d*)?|-\.\d+")


class EngineArgument(Value):
    """One argument, as the engine's own parser describes it."""

    flags: tuple[str, ...] = Field(description="every spelling, e.g. --max-model-len, -O")
    kind: Kind = Field(description="other: only the engine's own parser can say whether a value holds")
    values: str = Field(default="1", description="how many follow: 0, 1, another number, ?, * or +")
    choices: tuple[str, ...] = Field(default=(), description="the values allowed; empty: not a closed list")
    default: str | None = None
    help: str = ""

    @property
    def name(self) -> str:
        """The longest spelling: the one that says most."""
        return max(self.flags, key=len)


class ArgumentCatalog(Value):
    """Everything one engine version takes."""

    engine: str
    version: str
    arguments: tuple[EngineArgument, ...]
    takes_underscores: bool = Field(default=False, description="--max_model_len is --max-model-len")
    takes_abbreviations: bool = Field(default=False, description="a unique beginning of a flag stands for it")
    takes_dotted: bool = Field(default=False, description="--flag.key value sets one key of a JSON value")

    def find(self, flag: str) -> EngineArgument | None:
        """The argument that `flag` (without its value) names."""
        spelled = self._spelled(flag)
        for argument in self.arguments:
            if spelled in argument.flags:
                return argument
        if self.takes_dotted and "." in spelled:
            return next((a for a in self.arguments if spelled.partition(".")[0] in a.flags), None)
        if self.takes_abbreviations and spelled.startswith("--"):
            meant = [a for a in self.arguments if any(f.startswith(spelled) for f in a.flags)]
            return meant[0] if len(meant) == 1 else None
        return None

    def nearest(self, flag: str) -> str | None:
        """The flag that was probably meant."""
        known = [f for a in self.arguments for f in a.flags if f.startswith("--")]
        found = get_close_matches(self._spelled(flag), known, n=1, cutoff=0.6)
        return found[0] if found else None

    def _spelled(self, flag: str) -> str:
        name, dot, key = flag.partition(".")
        return (name.replace("_", "-") if self.takes_underscores else name) + dot + key


class Given(Value):
    """One argument on a command line: the flag as written, and its values."""

    flag: str
    values: tuple[str, ...] = ()


def reserved_flags(command: Sequence[str]) -> dict[str, str]:
    """Flags of an engine's command that the endpoint's spec fills in, each with the placeholder that does."""
    found: dict[str, str] = {}
    for flag, value in itertools.pairwise(command):
        placeholder = re.fullmatch(r"\{(host|port|served_model_name|max_context|checkpoint)\}", value)
        if flag.startswith("-") and placeholder:
            found[flag] = placeholder[1]
    return found


def find_problem(catalog: ArgumentCatalog, arguments: Sequence[str], command: Sequence[str] = ()) -> str | None:
    """What is wrong with the first argument that does not hold, as one sentence; None when all do.

    Args:
        command: of the engine's manifest; what it fills in from the spec must not be set twice.
    """
    for given in _split(catalog, arguments):
        problem = _problem(catalog, given, reserved_flags(command))
        if problem:
            return problem
    return None


def held(
    catalog: ArgumentCatalog, arguments: Sequence[str], command: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arguments that hold, and a sentence for each that was dropped."""
    kept: list[str] = []
    dropped: list[str] = []
    for given in _split(catalog, arguments):
        problem = _problem(catalog, given, reserved_flags(command))
        if problem:
            dropped.append(problem)
        else:
            kept += [given.flag, *given.values]
    return tuple(kept), tuple(dropped)


def needs_parser(catalog: ArgumentCatalog, arguments: Sequence[str]) -> bool:
    """Whether the description alone cannot say that everything holds."""
    for given in _split(catalog, arguments):
        argument = catalog.find(given.flag.partition("=")[0])
        if argument is None or (argument.kind == "other" and not argument.choices):
            return True
    return False


def _is_left_to_parser(catalog: ArgumentCatalog, flag: str) -> bool:
    """Short flags that a parser of the engine's own may read in its own way, as vLLM does -O3."""
    return catalog.takes_dotted and not flag.startswith("--")


def _split(catalog: ArgumentCatalog, arguments: Sequence[str]) -> Iterator[Given]:
    at = 0
    while at < len(arguments):
        flag = arguments[at]
        at += 1
        values: list[str] = []
        argument = catalog.find(flag.partition("=")[0])
        if argument is None and re.match(r"-[A-Za-z].", flag) and catalog.find(flag[:2]):
            yield Given(flag=flag[:2], values=(flag[2:],))  # -O3
            continue
        most = _most_values(argument) if argument and "=" not in flag else 0 if argument else len(arguments)
        while at < len(arguments) and len(values) < most and not _is_flag(arguments[at]):
            values.append(arguments[at])
            at += 1
        yield Given(flag=flag, values=tuple(values))


def _is_flag(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not _NUMBER.fullmatch(text)


def _most_values(argument: EngineArgument) -> int:
    return int(argument.values) if argument.values.isdigit() else 1 if argument.values == "?" else 1 << 30


def _problem(catalog: ArgumentCatalog, given: Given, reserved: dict[str, str]) -> str | None:
    who = f"{catalog.engine} {catalog.version}"
    flag, equals, inline = given.flag.partition("=")
    if not _is_flag(flag):
        return f"{flag!r} belongs to no argument of {who}; write it after the flag it is for."
    argument = catalog.find(flag)
    if argument is None and _is_left_to_parser(catalog, flag):
        return None
    if argument is None:
        nearest = catalog.nearest(flag)
        hint = f"did you mean {nearest}?" if nearest else f"`modelops engines args {catalog.engine}` lists them."
        return f"{who} has no argument {flag}; {hint}"
    for name in argument.flags:
        if name in reserved:
            return f"{flag} is set from the endpoint's {reserved[name]}; change that instead."
    values = ((inline,) if equals else ()) + given.values
    return _count_problem(argument, flag, len(values)) or next(
        (problem for value in values if (problem := _value_problem(argument, flag, value))), None
    )


def _count_problem(argument: EngineArgument, flag: str, count: int) -> str | None:
    wanted = argument.values
    if wanted.isdigit() and count != int(wanted):
        few = {"0": "no value", "1": "a value"}.get(wanted, f"{wanted} values")
        return f"{flag} takes {few}, and {count} {'is' if count == 1 else 'are'} given."
    if wanted == "+" and not count:
        return f"{flag} takes at least one value, and none is given."
    return None


def _value_problem(argument: EngineArgument, flag: str, value: str) -> str | None:
    if argument.choices:
        if value in argument.choices:
            return None
        near = get_close_matches(value, argument.choices, n=1)
        shown = ", ".join(argument.choices[:MAX_CHOICES_SHOWN])
        more = ", …" if len(argument.choices) > MAX_CHOICES_SHOWN else ""
        meant = f"did you mean {near[0]}?" if near else f"it takes {shown}{more}."
        return f"{flag} does not take {value!r}; {meant}"
    reads = {"int": int, "float": float}.get(argument.kind)
    if reads is None:
        return None
    try:
        reads(value)
    except ValueError:
        what = "a whole number" if argument.kind == "int" else "a number"
        return f"{flag} takes {what}, and {value!r} is none."
    return None
