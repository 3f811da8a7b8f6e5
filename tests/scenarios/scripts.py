"""Scripted models for scenarios: rules are taken in order, the first that fits answers."""

from __future__ import annotations

PLAN = """
  - when: {template: coordinator_main, has_tool_results: false, offers: [coordinator_get_codebase_context]}
    times: 1
    reply:
      tools:
        - {name: coordinator_get_codebase_context, input: {query: "retry payments"}}
        - {name: coordinator_get_documentation_context, input: {query: "retry payments"}}
"""

TOOLS = ""

ANSWER = """
  - when: {template: coordinator_main}
    reply: {text: "Payments are retried three times, in shop/orders.py.", chunk_chars: 8}
"""


def script(*rules: str) -> str:
    return "rules:" + "".join(rules)
