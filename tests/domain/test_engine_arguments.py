"""Arguments against what an engine takes."""

import pytest

from modelops_dagster.domain.engine_arguments import (
    ArgumentCatalog,
    EngineArgument,
    find_problem,
    held,
    needs_parser,
    reserved_flags,
)

CATALOG = ArgumentCatalog(
    engine="vllm",
    version="1.0",
    takes_underscores=True,
    takes_abbreviations=True,
    takes_dotted=True,
    arguments=(
        EngineArgument(flags=("--max-num-seqs",), kind="int"),
        EngineArgument(flags=("--gpu-memory-utilization",), kind="float"),
        EngineArgument(flags=("--dtype",), kind="text", choices=("auto", "bfloat16", "float16")),
        EngineArgument(flags=("--enable-lora", "--no-enable-lora"), kind="switch", values="0"),
        EngineArgument(flags=("--tensor-parallel-size", "-tp"), kind="int"),
        EngineArgument(flags=("--hf-overrides",), kind="other"),
        EngineArgument(flags=("--stops",), kind="text", values="+"),
        EngineArgument(flags=("--note",), kind="text", values="?"),
        EngineArgument(flags=("--port",), kind="int"),
    ),
)
PLAIN = CATALOG.model_copy(
    update={"takes_underscores": False, "takes_abbreviations": False, "takes_dotted": False, "engine": "plain"}
)
COMMAND = ("{env}/bin/vllm", "serve", "{checkpoint}", "--port", "{port}", "--max-num-seqs", "8")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--max-num-seqs", "4"),
        ("--max-num-seqs=4", "--dtype", "auto"),
        ("--max_num_seqs", "4"),
        ("--max-num", "4"),
        ("-tp", "2", "--enable-lora"),
        ("--no-enable-lora",),
        ("--gpu-memory-utilization", ".9"),
        ("--hf-overrides.rope.factor", "2"),
        ("--stops", "a", "b", "--note"),
        ("--note", "x"),
        ("-O3",),
        ("--max-num-seqs", "-1"),
    ],
)
def test_what_holds(arguments: tuple[str, ...]):
    assert find_problem(CATALOG, arguments, COMMAND) is None
    assert held(CATALOG, arguments, COMMAND) == (arguments, ())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-num-sequences", "4"), "vllm 1.0 has no argument --max-num-sequences; did you mean --max-num-seqs?"),
        (("--qqq",), "vllm 1.0 has no argument --qqq; `modelops engines args vllm` lists them."),
        (("--max-num-seqs", "many"), "--max-num-seqs takes a whole number, and 'many' is none."),
        (("--gpu-memory-utilization=most",), "--gpu-memory-utilization takes a number, and 'most' is none."),
        (("--dtype", "bf16"), "--dtype does not take 'bf16'; did you mean bfloat16?"),
        (("--dtype", "?"), "--dtype does not take '?'; it takes auto, bfloat16, float16."),
        (("--enable-lora=true",), "--enable-lora takes no value, and 1 is given."),
        (("--enable-lora", "true"), "'true' belongs to no argument of vllm 1.0; write it after the flag it is for."),
        (("--max-num-seqs",), "--max-num-seqs takes a value, and 0 are given."),
        (("--stops", "--enable-lora"), "--stops takes at least one value, and none is given."),
        (("--port", "1"), "--port is set from the endpoint's port; change that instead."),
        (("--tensor-parallel-size", "2", "8"), "'8' belongs to no argument"),
    ],
)
def test_what_does_not(arguments: tuple[str, ...], said: str):
    assert said in str(find_problem(CATALOG, arguments, COMMAND))


def test_a_plain_parser_is_not_given_vllms_freedoms():
    for flag in ("--max_num_seqs", "--max-num", "-O3", "--hf-overrides.x"):
        assert "has no argument" in str(find_problem(PLAIN, (flag, "4")))


def test_only_what_the_description_cannot_judge_is_asked_of_the_parser():
    assert not needs_parser(CATALOG, ("--max-num-seqs", "4", "--dtype", "auto"))
    assert needs_parser(CATALOG, ("--hf-overrides", "{}"))
    assert needs_parser(CATALOG, ("-O3",))


def test_what_does_not_hold_is_dropped_with_its_values():
    kept, dropped = held(CATALOG, ("--max-num-seqs", "4", "--unknown", "a", "b", "--dtype", "bf16", "--enable-lora"))
    assert kept == ("--max-num-seqs", "4", "--enable-lora")
    assert [line.split(";")[0] for line in dropped] == [
        "vllm 1.0 has no argument --unknown", "--dtype does not take 'bf16'",
    ]  # fmt: skip


def test_an_endpoints_own_flags():
    assert reserved_flags(COMMAND) == {"--port": "port"}
