"""Workspace-relative paths: their one spelling, and the paths that are never read whatever they hold."""

from __future__ import annotations

import fnmatch
import posixpath
import re

from tool_svc.workspace.refusal import BINARY, IGNORED, NOT_FOUND, OUTSIDE, SECRET, Refusal, refused

VCS_DIRECTORIES = frozenset({".git", ".hg", ".svn", ".bzr", ".jj"})
GENERATED_DIRECTORIES = frozenset({"__pycache__"})
SCRATCHPAD = "scratchpad"
DEPRECATED = "deprecated"
MAX_PATH_BYTES = 4096

# Suffixes whose files hold no text in practice. Only a shortcut: content decides for every other file.
BINARY_SUFFIXES = frozenset(
    """.7z .a .avi .bin .bmp .bz2 .class .db .dll .dylib .eot .exe .flac .gif .gz .ico .jar .jpeg .jpg .lib .mo .mov
    .mp3 .mp4 .npy .npz .o .obj .ogg .otf .parquet .pdf .pickle .pkl .png .psd .pyc .pyd .pyo .rar .so .sqlite .sqlite3
    .tar .tgz .tif .tiff .ttf .wasm .wav .webm .webp .whl .woff .woff2 .xls .xlsx .xz .zip .zst""".split()  # noqa: SIM905
)

SECRET_DIRECTORIES = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube"})
SECRET_SUFFIXES = frozenset(
    {".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk", ".tfstate", ".tfvars", ".p8"}
)
SECRET_NAMES = frozenset(
    """.netrc _netrc .pgpass .pypirc .npmrc .yarnrc.yml .htpasswd .git-credentials .dockercfg .vault-token .boto .s3cfg credentials
    credentials.json credentials.yml credentials.yaml credentials.toml credentials.ini credentials.xml kubeconfig
    master.key secret.json secret.yml secret.yaml secret.toml secrets.json secrets.yml secrets.yaml secrets.toml
    secrets.ini client_secret.json service-account.json service_account.json terraform.tfstate.backup""".split()  # noqa: SIM905
)
_SECRET_PATTERNS = (
    ".env*",
    "*.env",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "client_secret_*.json",
    "*.secret",
    "*.tfvars.json",
)
# By the directory that a file stands in, for its name alone says nothing.
SECRET_FILES = (".docker/config.json",)

_SECRET = re.compile("|".join(map(fnmatch.translate, _SECRET_PATTERNS)))


def normalise(path: str) -> str:
    """The one spelling of a workspace-relative path: no `.`, no empty parts, no leading `./`.

    Raises RefusedError: OUTSIDE_WORKSPACE for an absolute path or one that `..` leads out of the root, NOT_FOUND for a
    name no file can have.
    """
    if "\0" in path or not path.strip() or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise refused(NOT_FOUND)
    if path.startswith("/"):
        raise refused(OUTSIDE)
    # `a/../b` is resolved as text: a link at `a` is refused when opened, so text and file system cannot disagree.
    normal = posixpath.normpath(path)
    if normal == ".." or normal.startswith("../"):
        raise refused(OUTSIDE)
    if normal == ".":
        raise refused(NOT_FOUND)
    return normal


def is_plain_name(name: str) -> bool:
    """Whether a file name can stand in a line of a listing: UTF-8 and no control characters.

    Files with other names are left out: a name with a newline could pose as further lines of the material a model
    reads.
    """
    return name.isprintable()


def never_read(path: str) -> Refusal | None:
    """Why this path is never read, decided by its name alone; None when the name allows it."""
    *directories, _ = path.split("/")
    if directories and directories[0] == SCRATCHPAD:
        return IGNORED
    for directory in directories:
        if (refusal := never_entered(directory)) is not None:
            return refusal
    return never_read_file(path)


def never_entered(name: str) -> Refusal | None:
    """Why a directory of this name is not looked into at any depth; None when it may be."""
    if name in VCS_DIRECTORIES or name in GENERATED_DIRECTORIES or DEPRECATED in name.casefold():
        return IGNORED
    if not is_plain_name(name):
        return IGNORED
    return SECRET if name in SECRET_DIRECTORIES else None


def never_read_file(path: str) -> Refusal | None:
    """Why a file of this name is never read, whichever directories it stands beneath; None when it may be."""
    name = posixpath.basename(path)
    lowered = name.casefold()
    # A worktree or submodule has `.git` as a file.
    if DEPRECATED in lowered or name in VCS_DIRECTORIES or not is_plain_name(name):
        return IGNORED
    suffix = posixpath.splitext(lowered)[1]
    if lowered in SECRET_NAMES or suffix in SECRET_SUFFIXES or _SECRET.match(lowered) or path.endswith(SECRET_FILES):
        return SECRET
    return BINARY if suffix in BINARY_SUFFIXES else None
