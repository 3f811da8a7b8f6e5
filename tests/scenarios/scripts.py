"""Scripted models for scenarios: rules are taken in order, the first that fits answers."""

from __future__ import annotations

PLAN = """
  - name: plan
    when: {template: coordinator_main, has_tool_results: false, offers: [coordinator_get_codebase_context]}
    reply:
      tools:
        - {name: coordinator_get_codebase_context, input: {query: "retry payments"}}
        - {name: coordinator_get_documentation_context, input: {query: "retry payments"}}
"""

TOOLS = """
  - when: {template: coordinator_get_codebase_context}
    reply:
      tools:
        - name: submit_result
          input:
            relevant_files:
              - {path: shop/orders.py, intent: takes orders, relevance_score: 1, relevance_reason: retries three times}
              - {path: shop/invented.py, intent: none, relevance_score: 0, relevance_reason: does not exist}
  - when: {template: coordinator_get_documentation_context}
    reply:
      tools:
        - name: submit_result
          input:
            relevant_documents: [{path: README.md, relevance_score: 1}]
            direct_answer: {summary: payments are retried, source_documents: [README.md]}
"""

ANSWER = """
  - when: {template: coordinator_main}
    reply: {text: "Payments are retried three times, in shop/orders.py.", chunk_chars: 8}
"""


def script(*rules: str) -> str:
    return "rules:" + ("".join(rules) or " []")
