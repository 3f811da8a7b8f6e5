"""A newcomer's first questions through the whole house: real prompts over real trees, answered as the bundled model answers.

What is asserted is what must hold for any question (a plan of several valid calls, partial results, an answer whose every
sentence stands in the data and in the file it names), never the prose.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dbp.coordinator.v1 import coordinator_pb2

from local_bedrock.backends.answer import NEAREST
from local_bedrock.backends.decide import decide
from local_bedrock.backends.extract import extract
from local_bedrock.backends.script import Reply, ToolCall
from local_bedrock.calls import ModelCall, Text
from local_bedrock.settings import BUNDLED_MODEL_ID
from tests.support.house import TestHouse, house, small_repository

Event = coordinator_pb2.RequestEvent

THIS_REPOSITORY = Path(__file__).resolve().parents[2]
ASYNCIO = Path(asyncio.__file__).parent
PREFIX = "coordinator_get_"
GENERAL = {"codebase_context", "documentation_context"}
HISTORY = {"codebase_changelog_context", "documentation_changelog_context"}
SENTENCE = re.compile(r"(?:(?P<date>\d{4}-\d\d-\d\d): )?(?P<body>.+?) \(`(?P<path>[^`]+)`\)\.(?: |$)", re.DOTALL)
WORD = re.compile(r"[^\W_]+")


@pytest.fixture(autouse=True)
def bundled_model_for_all_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {role: [BUNDLED_MODEL_ID] for role in ("coordinator", "fast", "expert")}
    monkeypatch.setenv("DBP_LLM_ROLES", json.dumps(roles))


class BestRanked:
    """Answers as the bundled model does, but always takes the best-ranked candidate. `calls` are the prompts it was shown."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    def __call__(self, call: ModelCall) -> Reply:
        self.calls.append(call)
        blocks = decide(call, extract(call), lambda _: lambda _, candidates: candidates[0], lambda text: len(text) // 4)
        text = "".join(block.text for block in blocks if isinstance(block, Text))
        tools = [ToolCall(name=use.name, input_text=use.input_text) for use in blocks if not isinstance(use, Text)]
        return Reply(text=text, tools=tuple(tools))


async def ask(opened: TestHouse, question: str) -> list[Event]:
    return [event async for event in opened.client.ask(question, timeout=60, max_cost="0.05")]


def planned(events: Sequence[Event]) -> dict[str, Any]:
    """Parameters by tool."""
    calls = [call for event in events for call in event.plan.calls]
    return {call.tool.removeprefix(PREFIX): dict(call.parameters.items()) for call in calls}


def words(text: str) -> str:
    """Only the words, in one line: markup, line breaks and comment marks aside."""
    text = re.sub(r":\w+:(?=`)|\]\([^()\s]*\)", " ", text)
    return f" {' '.join(WORD.findall(text.lower()))} "


def history_of(root: Path) -> str:
    command = ["git", "-C", str(root), "log", "--format=%B"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def check_answer(answer: str, root: Path, shown: str) -> None:
    """One to three sentences; each stands in the prompts and in the file (or the commits) that it names."""
    said = list(SENTENCE.finditer(answer))
    assert not answer.startswith(NEAREST)
    assert 1 <= len(said) <= 3, answer
    assert "".join(match[0] for match in said) == answer
    for match in said:
        body = words(match["body"].rstrip("…"))
        file = root / match["path"]
        assert file.is_file(), match["path"]
        assert body in words(shown), match["body"]
        assert body in words(file.read_text() + (history_of(root) if match["date"] else "")), match[0]


def check_plans(calls: Sequence[ModelCall], events: Sequence[Event]) -> None:
    """Every planned call keeps to the schema of its tool and leaves out what nothing in the question fills."""
    offered = {tool.name.removeprefix(PREFIX): tool.input_schema for call in calls for tool in call.offered_tools}
    for tool, parameters in planned(events).items():
        plain = json.loads(json.dumps(parameters, default=list))
        jsonschema.validate(plain, dict(offered[tool]))
        assert set(plain) <= {"query", "paths"}


@pytest.mark.parametrize(
    ("root", "questions"),
    [
        (
            THIS_REPOSITORY,
            {
                "How does a request get from the client to the models, and where is its budget enforced?": GENERAL,
                "What is this project?": GENERAL,
                "What does llm/trimming.py do?": GENERAL | {"read_files"},
            },
        ),
        (
            ASYNCIO,
            {
                "How does a task get cancelled, and what happens to the coroutine it waits for?": GENERAL,
                "Which file implements timeouts?": GENERAL,
                "How should I add a watcher for subprocesses?": GENERAL | {"expert_architect_advice"},
            },
        ),
        (None, {"Where are payments retried?": GENERAL, "When were payments first retried?": HISTORY}),
    ],
    ids=["this-repository", "asyncio", "small-repository"],
)
async def test_a_newcomers_question_is_planned_worked_on_in_parallel_and_answered_from_files(
    root: Path | None, questions: dict[str, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = root or small_repository(tmp_path / "shop")
    async with house(tmp_path, monkeypatch, "rules: []", workspace=root) as opened:
        for question, tools in questions.items():
            model = BestRanked()
            opened.bedrock.load_script(model)
            events = await ask(opened, question)
            result = events[-1].result
            assert result.outcome == result.OUTCOME_COMPLETE, result
            assert tools <= set(planned(events))
            assert 2 <= len(result.jobs) <= 4
            check_plans(model.calls, events)
            shown = "\n".join(text for call in model.calls for text in call.segments() if isinstance(text, str))
            # As JSON escapes it in tool results, and as a fence defuses its own tags.
            check_answer(result.answer, root, shown.replace(r"\n", "\n").replace("&lt;", "<"))


async def test_the_bundled_model_itself_does_so_and_is_seen_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_repository(tmp_path / "shop")
    async with house(tmp_path, monkeypatch, None, workspace=root) as opened:
        events = await ask(opened, "How are failed payments retried, and what counts the shelves?")
        result = events[-1].result
        assert result.outcome == result.OUTCOME_COMPLETE, result
        assert set(planned(events)) >= GENERAL
        streamed = [event.job_text.job_id for event in events if event.HasField("job_text")]
        assert len(streamed) > len(set(streamed))  # a result comes in pieces
        assert "".join(event.answer_text.text for event in events) == result.answer
        assert {"shop/orders.py", "shop/stock.py"} & {citation.path for citation in result.citations}
        check_answer(result.answer, root, "\n".join(path.read_text() for path in root.rglob("*.*") if path.is_file()))
