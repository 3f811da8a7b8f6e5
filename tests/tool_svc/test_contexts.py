"""What each tool's LLM is shown of a workspace, and how files are ranked for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.tool_svc.test_formats import FULL_HEADER
from tests.tool_svc.trees import commit, snapshot_of, write_tree
from tool_svc.context.changes import codebase_changelog_context, documentation_changelog_context
from tool_svc.context.codebase import codebase_context, expert_context
from tool_svc.context.documentation import documentation_context
from tool_svc.context.material import CUT_MARK, estimate_tokens, fill
from tool_svc.context.request import ContextRequest
from tool_svc.index.languages import Role
from tool_svc.ranking import CANDIDATES, SIMILAR_COMMITS
from tool_svc.workspace.reading import CHANGED_MARK
from tool_svc.workspace.scope import Scope
from tool_svc.workspaces import WorkspaceSnapshot


def request(query: str, budget: int = 4000) -> ContextRequest:
    return ContextRequest(query, budget)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A repository without any of the DBP formats."""
    root = tmp_path / "plain"
    commit(root, "Add the mailer", {
        "README.md": "# Post\n\nSends letters.\n",
        "src/mailer.py": '"""Sends mail by SMTP."""\nimport smtplib\n\nclass Mailer:\n    def send_letter(self): ...\n',
        "src/queue.py": '"""Keeps jobs until a worker leases them."""\n\ndef lease_job(): ...\n',
        "src/helper.py": "x = 1\n",
        "docs/leases.md": "# Leases\n\nA worker renews its lease.\n",
        "docs/mail.md": "# Mail\n\nSMTP only.\n",
        "CHANGES.md": "# Changes\n\n## 1.1 (2024-02-01)\n- Leases\n\n## 1.0 (2024-01-01)\n- Mail\n",
    })  # fmt: skip
    commit(root, "Explain leases", {"docs/leases.md": "# Leases\n\nA worker renews its lease every 10 s.\n"})
    commit(root, "Retry letters that bounced\n\nThe server may be down.", {"src/helper.py": "x = 2\n"})
    return root


@pytest.fixture
def headed(tmp_path: Path) -> Path:
    """A folder that keeps to the DBP formats, in part."""
    entry = "[GenAI tool change history]\n# 2025-05-0{}T10:00:00Z : Change {} by Tool\n# * why"
    return write_tree(tmp_path / "headed", {
        "queue.py": FULL_HEADER,
        "a.py": f"# [Source file intent]\n# Part A.\n# {entry.format(1, 'one')}\nx = 1\n",
        "b.py": f"# {entry.format(2, 'two')}\nx = 1\n",
        "c.py": "x = 1\n",
        "doc/DESIGN.md": "# Design\n\nQueues.\n",
        "doc/DOCUMENT_RELATIONSHIPS.md": "# Relationships\n\nDESIGN depends on API.\n",
        "doc/MARKDOWN_CHANGELOG.md": (
            "2025-03-02T10:00:00Z : [DESIGN.md] Later change\n2025-03-01T10:00:00Z : [DESIGN.md, API.md] Earlier change\n"
        ),
    })  # fmt: skip


def first_lines(text: str) -> list[str]:
    return [block.split("\n", 1)[0] for block in text.split("\n\n")]


def test_codebase_context_shows_headers_and_counts_compliance(headed: Path, tmp_path: Path) -> None:
    with snapshot_of(headed, tmp_path / "cache") as snapshot:
        prepared = codebase_context(snapshot.view, request("queue of leases"))
    assert prepared.included[0] == "queue.py"
    assert "queue.py\nintent: Holds the queue." in prepared.values["file_headers"]
    assert "reference documentation: - doc/DESIGN.md\ndefines: lease" in prepared.values["file_headers"]
    counts = ("total_files", "compliant_files", "incomplete_header_files", "missing_header_files")
    assert [prepared.values[name] for name in counts] == ["4", "1", "2", "1"]
    assert sorted(prepared.included) == ["a.py", "b.py", "c.py", "queue.py"]


def test_a_repository_without_headers_shows_docstrings_and_symbols(plain: Path, tmp_path: Path) -> None:
    with snapshot_of(plain, tmp_path / "cache") as snapshot:
        prepared = codebase_context(snapshot.view, request("how are letters sent?"))
        assert first_lines(prepared.values["file_headers"])[0] == "src/mailer.py"
        assert "intent: Sends mail by SMTP.\ndefines: send_letter, Mailer" in prepared.values["file_headers"]
        assert prepared.snapshot_id == snapshot.id


def test_the_expert_sees_every_section(headed: Path, tmp_path: Path) -> None:
    with snapshot_of(headed, tmp_path / "cache") as snapshot:
        shown = expert_context(snapshot.view, request("queue")).values["file_headers"]
    assert "[Source file design principles]\n- One method, one transaction" in shown
    assert "[GenAI tool change history]\n2025-04-15T10:00:00Z" in shown


def test_code_changes_come_newest_first_with_their_file(headed: Path, tmp_path: Path) -> None:
    with snapshot_of(headed, tmp_path / "cache") as snapshot:
        shown = codebase_changelog_context(snapshot.view, request("changes")).values["change_entries"]
    assert shown.split("\n\n")[:2] == [
        "b.py\n2025-05-02T10:00:00Z: Change two by Tool\nwhy",
        "a.py\n2025-05-01T10:00:00Z: Change one by Tool\nwhy",
    ]
    assert first_lines(shown) == ["b.py", "a.py", "queue.py", "queue.py"]


def test_change_histories_and_commits_are_shown_together(plain: Path, tmp_path: Path) -> None:
    header = "[GenAI tool change history]\n# 2020-01-01T00:00:00Z : Old change by Tool"
    commit(plain, "Vendor a file", {
        "vendored.py": f"# {header}\nx = 1\n",
        "docs/MARKDOWN_CHANGELOG.md": "2020-01-01T00:00:00Z : [mail.md] Old document\n",
        "docs/style.md": f"<!--\n# {header.replace('Old', 'Older')}\n-->\n# Style\n",
    })  # fmt: skip
    with snapshot_of(plain, tmp_path / "cache") as snapshot:
        code = codebase_changelog_context(snapshot.view, request("changes")).values["change_entries"]
        documents = documentation_changelog_context(snapshot.view, request("changes")).values["changelog_entries"]
    for entry in ("Vendor a file", "Retry letters that bounced", "Add the mailer", "Older change", "Old change"):
        assert entry in code
    assert documents.index("Old document") < documents.index("Add the mailer") < documents.index("Explain leases")


def test_git_history_stands_for_missing_change_histories(plain: Path, tmp_path: Path) -> None:
    with snapshot_of(plain, tmp_path / "cache") as snapshot:
        code = codebase_changelog_context(snapshot.view, request("changes")).values["change_entries"]
        documents = documentation_changelog_context(snapshot.view, request("changes")).values["changelog_entries"]
    assert [block.split(": ", 1)[1].split(" (")[0] for block in code.split("\n\n")] == [
        "Retry letters that bounced",
        "Add the mailer",
    ]
    assert "The server may be down." in code
    assert first_lines(documents) == ["CHANGES.md", "CHANGES.md", "CHANGES.md", "docs/leases.md"]
    assert (
        documents.index("1.0")
        < documents.index("1.1")
        < documents.index("Add the mailer")
        < documents.index("Explain leases")
    )


def test_documents_are_shown_with_their_relationships_and_without_change_logs(headed: Path, tmp_path: Path) -> None:
    with snapshot_of(headed, tmp_path / "cache") as snapshot:
        prepared = documentation_context(snapshot.view, request("design of queues"))
    assert prepared.included == ("doc/DOCUMENT_RELATIONSHIPS.md", "doc/DESIGN.md")
    assert "doc/DESIGN.md\n# Design" in prepared.values["documentation_files"]


def test_documentation_changes_come_in_order_of_time(headed: Path, tmp_path: Path) -> None:
    with snapshot_of(headed, tmp_path / "cache") as snapshot:
        shown = documentation_changelog_context(snapshot.view, request("changes")).values["changelog_entries"]
    assert shown == (
        "doc/MARKDOWN_CHANGELOG.md\n2025-03-01T10:00:00Z: [DESIGN.md, API.md] Earlier change\n\n"
        "doc/MARKDOWN_CHANGELOG.md\n2025-03-02T10:00:00Z: [DESIGN.md] Later change"
    )


@pytest.mark.parametrize("budget", [200, 500, 2000, 20_000])
def test_the_best_comes_first_and_what_does_not_fit_is_named(tmp_path: Path, budget: int) -> None:
    files = {f"m{n}.py": f'"""Module {n} about {"leases " * 20}."""\ndef f{n}(): ...\n' for n in range(60)}
    root = write_tree(tmp_path / "root", {**files, "lease_renewal.py": '"""Renewal of leases."""\n'})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        prepared = codebase_context(snapshot.view, request("lease renewal", budget))
    shown = prepared.values["file_headers"]
    assert prepared.included[0] == "lease_renewal.py"
    assert estimate_tokens(shown) <= budget
    assert len(prepared.included) + prepared.left_out_count == 61
    assert set(prepared.included).isdisjoint(prepared.left_out)
    note = [f"[left out for lack of room: {prepared.left_out_count} more]"] if prepared.left_out else []
    assert first_lines(shown) == [*prepared.included, *note]


def test_files_that_have_nothing_to_do_with_the_query_only_fill_room_and_are_not_missed(tmp_path: Path) -> None:
    files = {f"other{n:02}.py": f'"""Draws {"pictures " * 20}."""\n' for n in range(30)}
    root = write_tree(tmp_path / "root", {**files, "zz.py": '"""Renews leases."""\n'})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        prepared = codebase_context(snapshot.view, request("leases", 500))
    assert prepared.included[:2] == ("zz.py", "other00.py")
    assert (len(prepared.included) < 31, prepared.left_out_count) == (True, 0)
    assert "left out" not in prepared.values["file_headers"]


def test_a_file_of_which_one_entry_is_shown_is_not_left_out() -> None:
    entries = [("a.md", lambda: "word " * 100), ("a.md", lambda: "word " * 100), ("b.md", lambda: "word " * 100)]
    filling = fill(entries, 250, estimate_tokens)
    prepared = filling.prepared("s", 2, {})
    assert (prepared.included, prepared.left_out, prepared.left_out_count) == (("a.md",), ("b.md",), 1)
    assert filling.text().endswith("\n\n[left out for lack of room: 2 more]")
    assert estimate_tokens(filling.text()) <= 250


def test_a_long_document_is_cut_with_a_mark_and_leaves_room_for_others(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.md": "# Leases\n" + "leases renew\n" * 5000, "b.md": "# Other\n"})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        prepared = documentation_context(snapshot.view, request("leases", 1000))
    assert prepared.included == ("a.md", "b.md")
    assert prepared.truncated == ("a.md",)
    assert CUT_MARK in prepared.values["documentation_files"]


def test_of_a_long_document_the_sections_about_the_query_are_shown(tmp_path: Path) -> None:
    sections = [f"## Part {n}\n\n{'filler words ' * 40}\n" for n in range(30)]
    sections[17] = "## Fencing\n\nA stale lease is refused by its fencing token.\n"
    root = write_tree(tmp_path / "root", {"a.md": "# Guide\n\n" + "\n".join(sections)})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        prepared = documentation_context(snapshot.view, request("fencing token of a lease", 900))
    shown = prepared.values["documentation_files"]
    assert "A stale lease is refused" in shown
    assert "lines left out]" in shown
    assert estimate_tokens(shown) <= 900


def test_of_a_long_document_that_has_changed_the_mark_is_shown(tmp_path: Path) -> None:
    text = "".join(f"## Part {number} on leases\n\n" for number in range(120))
    root = write_tree(tmp_path / "root", {"a.md": text})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (root / "a.md").write_text(text + "\nMore.\n")
        shown = documentation_context(snapshot.view, request("leases", 900)).values["documentation_files"]
    assert CHANGED_MARK in shown
    assert "lines left out]" in shown


def test_one_endless_line_is_cut_too() -> None:
    filling = fill([("a.js", lambda: "x" * 1_000_000)], 300, estimate_tokens)
    assert filling.truncated == ["a.js"]
    assert 150 < filling.tokens <= 300


def ranked(snapshot: WorkspaceSnapshot, query: str) -> list[str]:
    return [entry.file.path for entry in snapshot.view.ranked(query, Role)]


def test_files_rank_by_identifiers_split_as_people_ask(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "one.py": "def renewJobLease(): ...\n", "two.py": "def other(): ...\n", "job_lease.go": "package x\n",
    })  # fmt: skip
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert set(ranked(snapshot, "Where is the lease of a job renewed?")) == {"one.py", "job_lease.go"}
        assert ranked(snapshot, "renewJobLease")[0] == "one.py"
        assert ranked(snapshot, "") == []
        assert ranked(snapshot, '"; DROP TABLE file; -- NEAR(a b) * ^ {x}: OR') == []


def test_past_work_in_the_same_words_points_to_its_files(plain: Path, tmp_path: Path) -> None:
    with snapshot_of(plain, tmp_path / "cache") as snapshot:
        (best, *_) = snapshot.view.ranked("bounced", Role)
    assert best.file.path == "src/helper.py"
    assert best.signals["history"] > best.signals.get("content", 0)
    assert best.score == pytest.approx(sum(best.signals.values()))


def test_files_that_the_best_ones_refer_to_are_ranked(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {
        "pkg/api.py": '"""Claims leases."""\nfrom .store import Store\nfrom pkg.clock import now\n',
        "pkg/store.py": "", "pkg/clock.py": "",
        "tests/test_api.py": "", "docs/api.md": "[see](guide.md) leases\n", "docs/guide.md": "", "pkg/unrelated.py": "",
    })  # fmt: skip
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        order = ranked(snapshot, "claims leases")
    assert order[0] == "pkg/api.py"
    assert set(order) == {
        "pkg/api.py",
        "docs/api.md",
        "pkg/store.py",
        "pkg/clock.py",
        "docs/guide.md",
        "tests/test_api.py",
    }


def test_a_narrow_scope_is_ranked_however_much_better_the_rest_matches(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(
        root, "Renew the lease", {f"lib/lease{n}.py": f'"""Leases {n} leases."""\n' for n in range(CANDIDATES + 100)}
    )
    for n in range(SIMILAR_COMMITS + 10):
        commit(root, "Renew the lease", {"lib/lease0.py": f"x = {n}\n"})
    commit(root, f"Do more about the lease {'and other things ' * 20}", {"svc/a.py": "x = 1\n"})
    write_tree(root, {
        "svc/b.py": f'"""{"Unrelated words here. " * 60}"""\n# a lease is renewed\n', "svc/lease_c.py": "", "svc/d.py": "",
        "svc/leases.md": "# Leases leases leases\n",
    })  # fmt: skip
    with snapshot_of(root, tmp_path / "cache", Scope(directories=["svc"])) as snapshot:
        best = {entry.file.path: entry.signals for entry in snapshot.view.ranked("lease", [Role.CODE])}
    assert set(best) == {"svc/a.py", "svc/b.py", "svc/lease_c.py"}
    assert [best["svc/a.py"]["history"], best["svc/b.py"]["content"], best["svc/lease_c.py"]["name"]] == [0.8, 1.0, 0.5]


def test_base_context_tells_layout_date_and_purpose(plain: Path, tmp_path: Path) -> None:
    (plain / "PR-FAQ.md").write_text("# Press release\n")
    with snapshot_of(plain, tmp_path / "cache") as snapshot:
        base = snapshot.base_context(datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), max_paths=4)
    assert base.now == "2025-01-02T03:04:05+00:00"
    assert base.paths == ("CHANGES.md", "PR-FAQ.md", "README.md", "docs/leases.md")
    assert base.files_total == 8
    assert base.languages == {"Markdown": 5, "Python": 3}
    assert [(file.path, file.is_cut) for file in base.business] == [("PR-FAQ.md", False), ("README.md", False)]
