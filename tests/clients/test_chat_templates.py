"""Templates nobody has read, rendered where they can do no harm."""

import pytest

from modelops_dagster.clients.chat_templates import render_conversations
from modelops_dagster.domain.chat_templates import ANSWER, QUESTION, SYSTEM, end_of_turn

CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_good_template():
    report = render_conversations(CHATML, {})
    assert report.broken is None
    assert report.text("question") == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert SYSTEM in (report.text("system") or "")
    assert ANSWER in (report.text("turns") or "")
    assert end_of_turn(report, ("<|endoftext|>", "<|im_end|>")) == "<|im_end|>"
    assert end_of_turn(report, ()) == "<|im_end|>"


def test_what_transformers_offers_a_template_is_there():
    report = render_conversations(
        "{{ bos_token }}{{ strftime_now('%Y')|length }}{{ tools|tojson }}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        {"bos_token": "<s>"},
    )
    assert report.broken is None
    assert (report.text("tools") or "").startswith('<s>4[{"type": "function"')


def test_a_refusal_is_the_templates_own_sentence():
    report = render_conversations(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}hello", {}
    )
    assert report.error("system") == "System role not supported"
    assert report.text("question") == "hello"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("line\n{% if %}", "line 2"),
        (ENDLESS, "did not end within 1 s"),
    ],
)
def test_a_broken_template(template: str, said: str):
    assert said in (render_conversations(template, {}, cpu_limit_s=1).broken or "")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ 'a' * 10**11 }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ messages[0].content.nothing.at.all }}",
    ],
)
def test_nothing_gets_out_of_the_sandbox(template: str):
    report = render_conversations(template, {})
    assert report.text("question") is None
    assert report.error("question") or report.broken
