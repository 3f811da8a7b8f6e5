"""Which files of a workspace are read: ignore rules, secrets, scope, and trees that mean harm."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc_common.errors import ErrorReason, ServiceError
from tests.tool_svc.trees import commit, git, snapshot_of, write_tree
from tool_svc.workspace.ignore import IgnoreRules, compile_patterns
from tool_svc.workspace.paths import normalise
from tool_svc.workspace.refusal import RefusalCode, RefusedError
from tool_svc.workspace.scope import Scope
from tool_svc.workspace.text import holds_key_material, text_of
from tool_svc.workspaces import Workspaces

# Made up at run time, so that this file itself does not look like one that holds keys.
AWS_KEY = "AKIA" + "Q3EGV7XJ2LKMNP4R"
PRIVATE_KEY = "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"


def listed(root: Path, tmp_path: Path) -> set[str]:
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        return set(snapshot.listing(10_000))


def code_of(root: Path, tmp_path: Path, path: str) -> RefusalCode | None:
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (file,) = snapshot.read_files([path]).files
        assert (file.error is None) == (file.error_code is None)
        assert file.exists == (file.error is None)
        return file.error_code


def test_ignores_what_git_ignores(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, "start", {"a.py": ""})
    files = {
        ".gitignore": "*.log\n/build/\n!keep.log\ndoc/*.tmp\n**/deep/x.txt\n#no\n\\#yes\nspace\\ \n",
        "sub/.gitignore": "!important.log\nlocal.txt\n",
        "keep.log": "", "drop.log": "", "sub/important.log": "", "sub/other.log": "", "sub/local.txt": "",
        "local.txt": "", "build/out.py": "", "sub/build/out.py": "", "doc/a.tmp": "", "doc/b/a.tmp": "",
        "p/q/deep/x.txt": "", "p/deep/y.txt": "", "#yes": "", "#no": "", "excluded.txt": "", "build/.gitignore": "!out.py\n",
    }  # fmt: skip
    write_tree(root, files)
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/exclude").write_text("excluded.txt\n")
    by_git = set(git(root, "ls-files", "--cached", "--others", "--exclude-standard").splitlines())
    assert listed(root, tmp_path) == by_git


PATTERN = st.lists(
    st.sampled_from(["a", "b", "*", "?", "/", "**", "/**/", "!", ".x", "[ab]", "[!a]", "\\", " ", "a/"]),
    min_size=1,
    max_size=5,
).map("".join)
PATH = st.lists(st.sampled_from(["a", "b", "ab", "a.x", "b.x"]), min_size=1, max_size=3).map("/".join)


@settings(max_examples=25, deadline=None)
@given(patterns=st.lists(PATTERN, min_size=1, max_size=4), path=PATH)
def test_whatever_git_ignores_is_ignored(
    tmp_path_factory: pytest.TempPathFactory, patterns: list[str], path: str
) -> None:
    root = tmp_path_factory.mktemp("ignore")
    git(root, "init", "-q")
    write_tree(root, {".gitignore": "\n".join(patterns) + "\n", path: ""})
    by_git = path not in git(root, "ls-files", "--others", "--exclude-standard").splitlines()
    rules = IgnoreRules().with_file("", patterns)
    parts = path.split("/")
    ours = any(
        rules.ignores("/".join(parts[: depth + 1]), is_directory=depth + 1 < len(parts)) for depth in range(len(parts))
    )
    assert ours or not by_git


def test_a_subfolder_of_a_repository_obeys_what_stands_above_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    commit(top, "start", {
        ".gitignore": "*.log\n/services/mail/private.txt\nbuilt/\n", "services/.gitignore": "!keep.log\n/mail/local.txt\n",
        "services/mail/a.py": "", "services/mail/.gitignore": "!b.log\n",
    })  # fmt: skip
    git(top, "worktree", "add", "-q", str(tmp_path / "tree"))
    commit(tmp_path / "super", "start", {"b.py": ""})
    git(tmp_path / "super", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(top), "sub")
    names = [
        "private.txt",
        "local.txt",
        "a.log",
        "b.log",
        "keep.log",
        "new.py",
        "excluded.txt",
        "sub/private.txt",
        "built/c.py",
    ]
    for repository in (top, tmp_path / "tree", tmp_path / "super/sub"):
        exclude = repository / git(repository, "rev-parse", "--git-path", "info/exclude")
        exclude.parent.mkdir(exist_ok=True)
        exclude.write_text("excluded.txt\n")
        mail = write_tree(repository / "services/mail", dict.fromkeys(names, ""))
        by_git = set(git(mail, "ls-files", "--cached", "--others", "--exclude-standard").splitlines())
        assert by_git == {"a.py", ".gitignore", "b.log", "keep.log", "new.py", "sub/private.txt"}
        with snapshot_of(mail, tmp_path / "cache") as snapshot:
            assert set(snapshot.listing(100)) == by_git
            assert snapshot.read_files(["private.txt"]).files[0].error_code is RefusalCode.IGNORED
        # Who makes a workspace of an ignored folder wants what is in it.
        assert listed(mail / "built", tmp_path) == {"c.py"}


def test_a_git_file_that_leads_astray_does_no_harm(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.py": "", ".git": "gitdir: fifos\n"})
    (root / "fifos/info").mkdir(parents=True)
    os.mkfifo(root / "fifos/info/exclude")
    os.mkfifo(root / "fifos/commondir")
    assert listed(root, tmp_path) == {"a.py"}
    (root / ".git").write_bytes(b"gitdir: \0\n")
    assert listed(root, tmp_path) == {"a.py"}


def test_a_hostile_ignore_pattern_does_not_run_for_hours() -> None:
    spec = compile_patterns(["*a" * 40 + "b"])
    assert spec.match_file("a" * 200 + "b")
    spec = compile_patterns(["**/a/" * 20 + "b"])
    assert spec.match_file("a/" * 60 + "b")
    assert not spec.match_file("a/" * 60 + "c")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("scratchpad/notes.md", RefusalCode.IGNORED),
        ("src/deprecated_api.py", RefusalCode.IGNORED),
        ("src/Deprecated/x.py", RefusalCode.IGNORED),
        (".git/config", RefusalCode.IGNORED),
        ("sub/.git/config", RefusalCode.IGNORED),
        (".env", RefusalCode.SECRET),
        (".env.production", RefusalCode.SECRET),
        ("config/.ENV.local", RefusalCode.SECRET),
        ("deploy/server.pem", RefusalCode.SECRET),
        ("home/.ssh/config", RefusalCode.SECRET),
        ("id_ed25519", RefusalCode.SECRET),
        (".aws/credentials", RefusalCode.SECRET),
        (".docker/config.json", RefusalCode.SECRET),
        ("deploy/prod.auto.tfvars", RefusalCode.SECRET),
        ("deploy/prod.tfvars.json", RefusalCode.SECRET),
        ("AuthKey.p8", RefusalCode.SECRET),
        (".yarnrc.yml", RefusalCode.SECRET),
        ("key_in_text.py", RefusalCode.SECRET),
        ("pem_in_text.yaml", RefusalCode.SECRET),
        ("wide.txt", RefusalCode.SECRET),
        ("picture.png", RefusalCode.BINARY),
        ("nul.dat", RefusalCode.BINARY),
        ("big.txt", RefusalCode.TOO_LARGE),
        ("src", RefusalCode.NOT_A_FILE),
        ("nothing.py", RefusalCode.NOT_FOUND),
        ("nothing/at/all.py", RefusalCode.NOT_FOUND),
        ("a.py/b", RefusalCode.NOT_A_FILE),
        ("../a.py", RefusalCode.OUTSIDE_WORKSPACE),
        ("src/../../a.py", RefusalCode.OUTSIDE_WORKSPACE),
        ("/etc/passwd", RefusalCode.OUTSIDE_WORKSPACE),
        ("a.py\0.txt", RefusalCode.NOT_FOUND),
        ("", RefusalCode.NOT_FOUND),
        ("sub/scratchpad/notes.md", None),
        ("src/../a.py", None),
        ("./a.py", None),
        ("names_of_keys.py", None),
        ("latin1.txt", None),
        (".docker/Dockerfile", None),
        ("config.json", None),
    ],
)
def test_reads_a_path_or_says_why_not(tmp_path: Path, path: str, code: RefusalCode | None) -> None:
    root = write_tree(
        tmp_path / "root",
        {
            "a.py": "x = 1\n", "src/deprecated_api.py": "", "src/Deprecated/x.py": "", "scratchpad/notes.md": "",
            "sub/scratchpad/notes.md": "kept\n", ".git/config": "", "sub/.git/config": "", ".env": "A=1", ".env.production": "",
            "config/.ENV.local": "", "deploy/server.pem": "", "home/.ssh/config": "", "id_ed25519": "", ".aws/credentials": "",
            "key_in_text.py": f"KEY = '{AWS_KEY}'\n", "pem_in_text.yaml": f"key: |\n  {PRIVATE_KEY}", "picture.png": b"\x89PNG",
            "wide.txt": f"{PRIVATE_KEY}".encode("utf-16"), "nul.dat": b"text\0more", "big.txt": b"a" * (2 * 1024 * 1024 + 1),
            "names_of_keys.py": 'if "-----BEGIN PRIVATE KEY-----" in text or text.startswith("AKIA"): ...\n',
            "latin1.txt": "größer\n".encode("latin-1") * 20, ".docker/config.json": "{}", ".docker/Dockerfile": "FROM x\n",
            "deploy/prod.auto.tfvars": "", "deploy/prod.tfvars.json": "{}", "AuthKey.p8": "", ".yarnrc.yml": "",
            "config.json": "{}",
        },
    )  # fmt: skip
    assert code_of(root, tmp_path, path) is code


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["..", ".", "a", "", "b ", "…", "/"]), max_size=8).map("/".join))
def test_a_normal_path_never_leads_out(path: str) -> None:
    try:
        normal = normalise(path)
    except RefusedError:
        return
    assert not normal.startswith("/")
    assert all(part not in {"", ".", ".."} for part in normal.split("/"))


def test_key_material_is_told_from_code_that_names_it() -> None:
    assert holds_key_material(PRIVATE_KEY.encode())
    assert holds_key_material(PRIVATE_KEY.replace("\n", "\\n").encode())
    assert holds_key_material(f'"{AWS_KEY}"'.encode())
    assert not holds_key_material(b"AKIA[0-9A-Z]{16}")
    assert not holds_key_material(b"sha256-AKIAQ3EGV7XJ2LKMNP4RAKIAQ3EGV7XJ2LKMNP4R+/abc")


def test_text_in_other_encodings_is_read() -> None:
    assert text_of("größer".encode("utf-8-sig")) == "größer"
    assert text_of("größer\n".encode("utf-16")) == "größer\n"
    assert text_of("naïve café\n".encode("latin-1") * 30).count("caf") == 30
    assert text_of("añ".encode()[:-1], cut=True) == "a"


def test_a_scope_narrows_and_never_widens(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {"src/a.py": "", "src/b.js": "", "src/gen/c.py": "", "docs/d.md": "", ".gitignore": "src/gen/\n", ".env": ""},
    )
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    scope = Scope(include_patterns=["*.py", ".env", "src/gen/**"], directories=["src"], exclude_patterns=["b*"])
    with workspaces.snapshot("w", scope) as snapshot:
        assert snapshot.listing(10) == ["src/a.py"]
        files = snapshot.read_files(["src/a.py", "docs/d.md", "src/gen/c.py", ".env"]).files
        assert [file.error_code for file in files] == [None, "OUT_OF_SCOPE", "IGNORED", "OUT_OF_SCOPE"]
    with pytest.raises(ServiceError) as caught:
        Scope(directories=["../.."])
    assert caught.value.reason is ErrorReason.PATH_OUTSIDE_WORKSPACE


def test_links_devices_and_fifos_are_left_alone(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"real/a.py": "x = 1\n", "real/b.py": ""})
    (tmp_path / "secret.txt").write_text("outside")
    (root / "loop").symlink_to(root)
    (root / "up").symlink_to("..")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "alias.py").symlink_to("real/a.py")
    (root / "linked").symlink_to("real")
    os.mkfifo(root / "pipe")
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert snapshot.listing(10) == ["real/a.py", "real/b.py"]
        asked = ["loop/real/a.py", "up/secret.txt", "out.txt", "alias.py", "linked/a.py", "pipe"]
        read = snapshot.read_files(asked)
        assert {file.error_code for file in read.files} == {RefusalCode.NOT_A_FILE}
        assert list(read.missing) == asked


def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"d/a.txt": "inside\n"})
    outside = write_tree(tmp_path / "outside", {"a.txt": "outside\n"})
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "d", root / "kept")
            os.symlink(outside, root / "d")
            os.unlink(root / "d")
            os.rename(root / "kept", root / "d")

    with snapshot_of(root, tmp_path / "cache") as snapshot:
        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            contents = {snapshot.read_files(["d/a.txt"]).files[0].content for _ in range(1500)}
        finally:
            stop.set()
            swapper.join()
    assert contents <= {"inside\n", ""}


def test_strange_names_and_contents_do_no_harm(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {
            "two\nlines.py": "", "tab\there.py": "", "esc\x1b[31m.py": "", "fine name ü.py": "",
            "invalid.py": b"x = '\xff\xfe\xfd'\n",
            "long_line.js": "var a=" + "1+" * 500_000 + "1;", "empty.py": "",
        },
    )  # fmt: skip
    os.close(os.open(os.fsencode(root) + b"/\xff\xfe.py", os.O_CREAT))
    (root / ("deep/" * 120)).mkdir(parents=True)
    (root / ("deep/" * 120) / "x.py").write_text("")
    for number in range(50_000):
        (root / f"empty/{number // 500}/{number}").mkdir(parents=True)
    assert listed(root, tmp_path) == {"fine name ü.py", "invalid.py", "long_line.js", "empty.py"}


def test_a_huge_file_is_named_and_not_read(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.py": "", "line.js": b"x" * 100_000_000})
    with open(root / "log.txt", "wb") as file:
        file.truncate(100 * 1024 * 1024 * 1024)
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert snapshot.skipped()["log.txt"].code is RefusalCode.TOO_LARGE
        files = snapshot.read_files(["log.txt", "line.js"]).files
        assert [file.error_code for file in files] == [RefusalCode.TOO_LARGE] * 2


def test_long_files_are_cut_with_a_mark_and_within_a_total(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {f"{number}.txt": "ä" * 500_000 for number in range(4)})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (short,) = snapshot.read_files(["0.txt"], max_bytes_per_file=1001).files
        assert short.is_truncated
        assert short.content == "ä" * 500 + "\n[cut after 1001 of 1000000 bytes]"
        assert short.size == 1_000_000
        files = snapshot.read_files([f"{number}.txt" for number in range(4)], max_bytes_per_file=1 << 20).files
        assert [file.is_truncated for file in files] == [False, False, True, True]
        assert sum(len(file.content.encode()) for file in files) < 2 * 1024 * 1024 + 1000
        assert all(file.exists for file in files)


def test_content_newer_than_the_snapshot_is_marked(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.py": "x = 1\n", "b.py": "y = 1\n", "c.md": "# C\n", "d.md": "# D\n"})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        os.utime(root / "b.py")
        assert snapshot.read_files(["b.py"]).files[0].content == "y = 1\n"
        assert snapshot.view.text("c.md") == "# C\n"
        assert not snapshot.has_differed
        before = (root / "a.py").stat()
        (root / "a.py").write_text("x = 2\n")
        os.utime(root / "a.py", ns=(before.st_atime_ns, before.st_mtime_ns))
        (newer,) = snapshot.read_files(["a.py"]).files
        assert newer.content.startswith("x = 2\n\n[this file has changed since the snapshot")
        assert snapshot.has_differed
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (root / "c.md").write_text("# New plan\n")
        assert (snapshot.view.text("c.md") or "").startswith("[this file has changed since the snapshot")
        assert snapshot.has_differed
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (root / "d.md").unlink()
        assert snapshot.view.text("d.md") is None
        assert snapshot.has_differed


def test_a_file_that_has_grown_or_become_secret_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.txt": "", "b.txt": ""})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (root / "a.txt").write_bytes(b"a" * (2 * 1024 * 1024 + 1))
        (root / "b.txt").write_text("b\n" * 100_000 + PRIVATE_KEY)
        files = snapshot.read_files(["a.txt", "b.txt"], max_bytes_per_file=1000).files
        assert [file.error_code for file in files] == [RefusalCode.TOO_LARGE, RefusalCode.SECRET]
        assert snapshot.view.text("b.txt") is None


def test_a_root_that_is_gone_is_an_error_of_the_call(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.py": ""})
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    with workspaces.snapshot("w") as snapshot:
        (root / "a.py").unlink()
        root.rmdir()
        assert snapshot.read_files(["a.py"]).files[0].error_code is RefusalCode.NOT_FOUND
        assert snapshot.refusal("b.py") is not None
    with pytest.raises(ServiceError, match="the workspace w") as caught:
        workspaces.refresh("w")
    assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE
