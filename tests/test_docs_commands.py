"""What the documentation tells a reader to type is there, what it links to as well, and options say what they are."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from modelops_dagster.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))
# in backticks, or at the beginning of a line of a block
QUOTED = re.compile(r"(?:`|^(?: {4})?)(modelops [^`\n]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


ALL: dict[tuple[str, ...], click.Command] = {(): cli, **dict(commands(cli))}


def complaints(line: str) -> list[str]:
    """What is wrong with one line that somebody is told to type; what comes after ` -- ` is for another program."""
    found = []
    for part in re.split(r"\s[;|]\s", re.split(r"\s(?:--|#)\s", line)[0]):
        if not part.startswith("modelops "):
            continue
        words = [word.strip("[](),.:`").partition("=")[0] for word in part.split()][1:]
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in ALL:
            path = (*path, words.pop(0))
        command = ALL[path]
        known = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        found += [f"{part!r}: no option {w}" for w in words if re.match(r"--?[a-z]", w) and w not in known]
        if isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            found.append(f"{part!r}: no command {words[0]}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_quoted_exist_with_their_options(page: str):
    lines = QUOTED.findall((ROOT / page).read_text())
    assert [complaint for line in lines for complaint in complaints(line)] == []


def test_a_command_that_is_not_there_would_be_found():
    assert len([line for page in PAGES for line in QUOTED.findall((ROOT / page).read_text())]) > 50
    assert complaints("modelops endpoints validate -f SPEC") != []
    assert complaints("modelops onboard ORG/NAME --no-such-option") != []
    assert complaints("modelops routes list | sort -r ; modelops routes nothing") != []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    folder = (ROOT / page).parent
    assert [target for target in LINK.findall((ROOT / page).read_text()) if not (folder / target).exists()] == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: "_".join(("modelops", *path)))
def test_every_command_and_option_says_what_it_is(path: tuple[str, ...]):
    command = ALL[path]
    assert command.help
    if isinstance(command, click.Group):
        _, _, listed = command.get_help(click.Context(command)).partition("Commands:")
        assert listed and "..." not in listed, "its commands are told in whole sentences"
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    assert [option.opts for option in options if not option.help] == []
