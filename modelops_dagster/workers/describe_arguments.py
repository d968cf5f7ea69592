"""Ask an engine's own argument parser what it takes, inside that engine's environment. Standard library only.

`python -P describe_arguments.py ENTRY_POINT [WORD...]` prints the parser as JSON. With `--parse` and a JSON list on
stdin, it has the parser read that list and prints `{"error": null}` or what the parser says. Whatever else the program
prints while it is imported goes to stderr, so that stdout is the answer alone.

The entry point is called as the program would be, and stopped where it begins to read its arguments: where a program
keeps its parser changes with every version, that it has one does not.
"""

import argparse
import importlib
import json
import os
import sys
from typing import Any, NoReturn

MAX_HELP = 400  # characters
KINDS = {int: "int", float: "float", str: "text", None: "text"}


class Reached(BaseException):
    """The program is about to read its arguments. No Exception, so that no handler of the program swallows it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def find_parser(entry_point: str, words: list[str]) -> argparse.ArgumentParser:
    """The parser behind the entry point, and behind the sub-command that the words name."""
    module, _, function = entry_point.partition(":")

    def reached(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise Reached(self)

    sys.argv = [module, *words]
    called = getattr(importlib.import_module(module), function)
    real = argparse.ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_known_args = reached  # type: ignore[method-assign]
    try:
        called()
    except Reached as at:
        parser = at.parser
    else:
        raise SystemExit(f"{entry_point} read no arguments")
    finally:
        argparse.ArgumentParser.parse_known_args = real  # type: ignore[method-assign]
    for word in words:
        nested = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = nested.choices[word]
    return parser


def describe(parser: argparse.ArgumentParser) -> dict[str, Any]:
    flexible = type(parser) is not argparse.ArgumentParser  # vLLM's own parser reads underscores and dotted keys
    return {
        "arguments": [_argument(a) for a in parser._actions if a.option_strings and a.dest != "help"],
        "takes_underscores": flexible,
        "takes_dotted": flexible,
        "takes_abbreviations": parser.allow_abbrev,
    }


def _argument(action: argparse.Action) -> dict[str, Any]:
    values = "1" if action.nargs is None else str(action.nargs)
    kind = "switch" if values == "0" else KINDS.get(action.type, "other")  # type: ignore[arg-type]
    has_default = action.default is not None and action.default is not argparse.SUPPRESS
    return {
        "flags": list(action.option_strings),
        "kind": kind,
        "values": values,
        "choices": [str(choice) for choice in action.choices or ()],
        "default": str(action.default) if has_default else None,
        "help": " ".join((action.help or "").split())[:MAX_HELP] if action.help != argparse.SUPPRESS else "",
    }


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> str | None:
    """What the parser says against the arguments; None when it takes them."""

    class Said(Exception):
        pass

    def error(message: str) -> NoReturn:
        raise Said(message)

    parser.error = error  # type: ignore[method-assign]
    for action in parser._actions:
        action.required = False  # what the platform fills in is not there yet
    try:
        parser.parse_args(arguments)
    except (Said, argparse.ArgumentError, ValueError) as said:
        return " ".join(str(said).split())
    except SystemExit:
        return "the parser ended the program"
    return None


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)
    words = sys.argv[1:]
    wants_parse = words[0] == "--parse"
    given = json.load(sys.stdin) if wants_parse else None
    entry_point, *rest = words[1:] if wants_parse else words
    parser = find_parser(entry_point, rest)
    document = {"error": parse(parser, given)} if given is not None else describe(parser)
    with os.fdopen(answer, "w") as out:
        json.dump(document, out)


if __name__ == "__main__":
    main()
