from __future__ import annotations

from tool_svc.output_paths import check_paths

KNOWN = {"src/a.py", "src/b.py", "README.md"}


def test_invented_paths_go_with_what_is_said_about_them() -> None:
    output = {
        "relevant_files": [{"path": "src/a.py", "why": "x"}, {"path": "src/no.py", "why": "y"}],
        "groups": [{"name": "g", "files": ["src/no.py", "src/b.py"]}],
        "answer": {"path": "no.md", "text": "src/no.py is only mentioned here"},
        "reference_documentation": ["docs/no.md", "README.md"],
    }
    checked = check_paths(output, KNOWN)
    assert checked.output == {
        "relevant_files": [{"path": "src/a.py", "why": "x"}],
        "groups": [{"name": "g", "files": ["src/b.py"]}],
        "answer": {"text": "src/no.py is only mentioned here"},
        "reference_documentation": ["README.md"],
    }
    assert (checked.removed, list(checked.paths)) == (4, ["src/a.py", "src/b.py", "README.md"])


def test_paths_get_the_spelling_of_the_workspace() -> None:
    checked = check_paths({"files": ["./src/a.py:12-20", "`src/b.py#L3`", "/README.md", "src\\a.py"]}, KNOWN)
    assert checked.output == {"files": ["src/a.py", "src/b.py", "README.md", "src/a.py"]}


def test_new_files_may_be_proposed_where_there_is_a_directory_for_them() -> None:
    output = {
        "proposals": [{"path": "src/new.py"}, {"path": "lib/new.py"}, {"path": "../new.py"}],
        "files": ["src/new.py"],
    }
    checked = check_paths(output, KNOWN, {"proposals"})
    assert checked.output == {"proposals": [{"path": "src/new.py"}], "files": []}
    assert list(checked.paths) == []
