"""Renders a repository's chat template in a process of its own, which may be killed: a template is a program.

Reads one JSON document from standard input (`template`, `variables`, `conversations`: name -> arguments, and the limits
`cpu_limit_s` and `memory_limit_bytes`) and writes one to standard output: `error` when the template does not parse,
else `renderings`: name -> `text` or `error`. The environment is the one Transformers renders chat templates in.
"""

import datetime
import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote; it changes nothing of the text."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """No access to Python's internals, nothing that is passed in can be changed."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda pattern: datetime.datetime.now(datetime.UTC).strftime(pattern)
    return made


def render(document: dict[str, Any]) -> dict[str, Any]:
    """What each conversation becomes; what a template raises is a result, whatever it is."""
    try:
        template = environment().from_string(document["template"])
    except (jinja2.TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        return {"error": f"{error}" + (f" (line {line})" if line else "")}
    renderings = {}
    for name, arguments in document["conversations"].items():
        try:
            renderings[name] = {"text": template.render(**document["variables"], **arguments)}
        except Exception as error:
            renderings[name] = {"error": str(error) or type(error).__name__}
    return {"renderings": renderings}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_limit_s"], asked["cpu_limit_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory_limit_bytes"], asked["memory_limit_bytes"]))
    json.dump(render(asked), sys.stdout)
