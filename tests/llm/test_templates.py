"""Prompts: what a template may look like, where untrusted text goes in it, and that ours stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_svc.prompt import PLACEHOLDERS, TEMPLATE
from llm.fence import cut, fence
from llm.notices import load_notices
from llm.templates import (
    TemplateError,
    load_template,
    load_templates,
)
from tests.llm.support import PROMPTS

GOOD = """# Title
Version: 2.1
<!-- a comment
with {{anything}} -->

## System Instruction

Be exact. {"json": {"is": "text"}}

## User Query Format

About {{topic}} in short.

Earlier:
{{earlier}}

{{query}}

## Example Usage

One.

## Response Format

By the schema.

```json
{"type": "object", "properties": {"a": {"type": "string"}}}
```
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tool.md"


def load(path: Path, text: str) -> str:
    """The message with which a template is refused."""
    path.write_text(text)
    with pytest.raises(TemplateError) as refused:
        load_template(path, {"query", "topic", "earlier"})
    return str(refused.value)


def test_a_template_gives_stable_system_text_and_fenced_user_text(path: Path) -> None:
    path.write_text(GOOD)
    template = load_template(path, {"query", "topic", "earlier"})

    assert template.version == "2.1"
    assert '{"json": {"is": "text"}}' in template.system
    assert "comment" not in template.system
    assert template.response_schema == {"type": "object", "properties": {"a": {"type": "string"}}}
    pieces = template.render({"query": "why </data> so?", "topic": "a\n<b>", "earlier": ""})
    assert pieces == ["About a &lt;b> in short.", '<data name="query">\nwhy &lt;/data> so?\n</data>']


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("# Title", "Title", 1, "title"),
        ("Version: 2.1", "", 2, "version"),
        ("## Example Usage", "## Examples", 18, "unknown section 'Examples'"),
        ("## Example Usage\n\nOne.", "", 28, "section '## Example Usage' is missing"),
        ("\nOne.\n", "", 20, "section 'Example Usage' is empty"),
        ("{{topic}}", "{{tpoic}}", 12, "unknown placeholder {{tpoic}}"),
        ("{{topic}}", "{{The Topic}}", 12, "no placeholder"),
        ("{{query}}", "", 11, "{{query}}"),
        ("One.", "One {{query}}.", 21, "outside"),
        ('"type": "object", ', "", 28, '"type": "object"'),
        ('"string"}}}', '"string"}}', 29, "not JSON"),
        ('{"type": "string"}', '{"type": "strong"}', 28, "not a JSON schema"),
    ],
)
def test_a_malformed_template_is_refused_with_file_and_line(
    path: Path, old: str, new: str, line: int, problem: str
) -> None:
    message = load(path, GOOD.replace(old, new, 1))

    assert message.startswith(f"{path}:")
    assert problem in message
    assert abs(int(message[len(str(path)) + 1 :].split(":")[0]) - line) <= 1


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"coordinator_main\.md:1: there is no such prompt file"):
        load_templates(tmp_path, {TEMPLATE: PLACEHOLDERS})


def test_the_coordinators_prompt_and_the_notices_stand() -> None:
    [template] = load_templates(PROMPTS, {TEMPLATE: PLACEHOLDERS}).values()
    pieces = template.render(dict.fromkeys(PLACEHOLDERS, "something"))

    assert template.response_schema is None
    assert pieces[-1] == '<data name="query">\nsomething\n</data>'  # last, so that the stable part comes first
    load_notices(PROMPTS)


def test_a_broken_notice_is_named(tmp_path: Path) -> None:
    (tmp_path / "instance_notices.md").write_text("# N\nVersion: 1\n\n## Conclude\n\nStop: {{why}}.\n")
    with pytest.raises(TemplateError, match=r"instance_notices.md:4: notice 'Conclude': unknown placeholder why"):
        load_notices(tmp_path)


# Text that fights its fence: pieces of tags in every order, around and within ordinary words.
HOSTILE = st.lists(
    st.sampled_from(["<data", "</data>", "< / DATA >", "<", ">", "/", "data", ' name="x"', "\n", "é", "word "]),
    max_size=30,
).map("".join)


@given(HOSTILE, HOSTILE, st.text(max_size=20))
def test_nothing_inside_a_fence_can_end_it(before: str, after: str, name: str) -> None:
    fenced = "\n".join([fence(name, before, name), fence("next", after)])

    assert fenced.count("</data>") == 2
    assert fenced.lower().replace(" ", "").count("</data>") == 2
    assert fenced.count("<data ") == 2


@given(HOSTILE, st.integers(0, 200))
def test_a_cut_says_so_and_leaves_a_fence_closed(text: str, limit: int) -> None:
    for whole in (text, fence("one", text, "a.py")):
        short = cut(whole, limit)

        assert short == whole or "bytes left out" in short
        assert len(short.encode()) <= max(limit, 100) + 100
        if whole != text:
            assert (short.count("<data "), short.count("</data>")) == (1, 1)
            assert short.endswith("\n</data>")
