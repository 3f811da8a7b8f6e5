from __future__ import annotations

from tool_svc.diffs import readable_files, split

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


def test_what_may_not_be_read_is_not_in_it() -> None:
    files = {file.path: file.text for file in readable_files(DIFF, lambda path: path != "gone.py")}
    assert list(files) == ["src/a.py", "new name.py", "key.txt", "run.sh"]
    assert "AKIA" not in files["key.txt"]
