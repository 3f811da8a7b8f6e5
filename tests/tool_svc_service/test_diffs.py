"""Diffs, cut into files and rid of what may not be read."""

from __future__ import annotations

import pytest

from tests.tool_svc.test_what_is_read import PRIVATE_KEY
from tool_svc.diffs import readable_files, split
from tool_svc.workspace.paths import never_read
from tool_svc.workspace.refusal import OUT_OF_SCOPE, Refusal

DIFF = """commit 123
diff --git a/src/a.py b/src/a.py
index 1..2 100644
--- a/src/a.py
+++ b/src/a.py
@@ -1,2 +1,2 @@
-old
+new
+--- a/not/a/header
 same
diff --git a/old name.py b/new name.py
similarity index 90%
rename from old name.py
rename to new name.py
--- a/old name.py\t
+++ b/new name.py\t
@@ -1 +1 @@
-x
+y
diff --git a/.env b/.env
new file mode 100644
--- /dev/null
+++ b/.env
@@ -0,0 +1 @@
+TOKEN=1
diff --git a/gone.py b/gone.py
deleted file mode 100644
--- a/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/key.txt b/key.txt
--- a/key.txt
+++ b/key.txt
@@ -0,0 +1 @@
+aws AKIAABCDEFGHIJKLMNOP
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
"""


def test_a_diff_is_cut_into_files() -> None:
    found = [(file.path, file.added, file.removed) for file in split(DIFF)]
    assert found == [
        ("src/a.py", 2, 1),
        ("new name.py", 1, 1),
        (".env", 1, 0),
        ("gone.py", 0, 1),
        ("key.txt", 1, 0),
        ("run.sh", 0, 0),
    ]


def refusal_of(path: str) -> Refusal | None:
    return OUT_OF_SCOPE if path == "gone.py" else never_read(path)


def shown(diff: str) -> str:
    return "\n".join(file.text for file in readable_files(diff, refusal_of))


def test_what_may_not_be_read_is_not_in_it() -> None:
    files = {file.path: file.text for file in readable_files(DIFF, refusal_of)}
    assert list(files) == ["src/a.py", "new name.py", "key.txt", "run.sh"]
    assert "AKIA" not in files["key.txt"]


def signed(sign: str, text: str) -> str:
    return "".join(f"{sign}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "hunk",
    [
        "@@ -1,3 +0,0 @@\n" + signed("-", PRIVATE_KEY),
        "@@ -0,0 +1,3 @@\n" + signed("+", PRIVATE_KEY),
        # Neither the diff nor what it removes looks like a key, but what remains does.
        "@@ -1,4 +1,3 @@\n" + signed(" ", PRIVATE_KEY.split("\n")[0]) + "-note\n" + signed(" ", PRIVATE_KEY[28:]),
        "@@ -4 +4 @@ key: " + PRIVATE_KEY.replace("\n", "\n ") + "\n-a\n+b\n",
        # In the diff of a merge each parent has a column, and this key stood in the second one alone.
        "@@@ -1 -1,3 +1 @@@\n" + signed(" -", PRIVATE_KEY),
        "@@@ -1 -1,3 +1 @@@\n" + signed("+ ", PRIVATE_KEY.split("\n")[0]) + signed(" -", PRIVATE_KEY[28:]),
    ],
    ids=["removed", "added", "touched", "in the heading", "merged", "merged in part"],
)
def test_a_key_is_withheld_on_either_side_of_a_change(hunk: str) -> None:
    kind = "cc a.txt" if hunk.startswith("@@@") else "git a/a.txt b/a.txt"
    text = shown(f"diff --{kind}\n--- a/a.txt\n+++ b/a.txt\n{hunk}")
    assert "MIIE" not in text
    assert "withheld" in text


ENV = "@@ -1 +1 @@\n-PASSWORD=hunter1\n+PASSWORD=hunter2\n"
OK = "diff --git a/ok.py b/ok.py\n--- a/ok.py\n+++ b/ok.py\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    "diff",
    [
        "diff --git a/.env b/settings.txt\nrename from .env\nrename to settings.txt\n--- a/.env\n+++ b/settings.txt\n" + ENV,
        "diff --git a/.env b/copy.txt\ncopy from .env\ncopy to copy.txt\n--- a/.env\n+++ b/copy.txt\n" + ENV,
        "diff --git a/gone.py b/ok2.py\nrename from gone.py\nrename to ok2.py\n--- a/gone.py\n+++ b/ok2.py\n" + ENV,
        OK + "diff --cc .env\nindex 1,2..3\n--- a/.env\n+++ b/.env\n" + ENV,
        OK + "diff --combined .env\nindex 1,2..3\n--- a/.env\n+++ b/.env\n" + ENV,
        OK + "--- a/.env\n+++ b/.env\n" + ENV,
        OK + "Index: .env\n" + ENV,
        OK + "diff -u old/.env new/.env\n--- old/.env\n+++ new/.env\n" + ENV,
        'diff --git "a/\\".env" "b/\\".env"\n--- "a/\\".env"\n+++ "b/\\".env"\n' + ENV,
        "diff --git a/x/../.env b/x/../.env\n--- a/x/../.env\n+++ b/x/../.env\n" + ENV,
        "diff --git .env ok.py\n--- .env\n+++ b/ok.py\n" + ENV,
        OK + "diff --git a/a.dat b/a.dat\nindex 1..2\nGIT binary patch\nliteral 7\nOhunter\n",
    ],
)  # fmt: skip
def test_no_form_of_a_diff_brings_in_a_file_that_may_not_be_read(diff: str) -> None:
    text = shown(diff)
    assert "hunter" not in text
    assert ("+b" in text) is diff.startswith(OK)
