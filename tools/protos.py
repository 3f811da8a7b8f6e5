"""Compiles the contracts: stubs beside the .proto files, or an image for `buf` to lint and compare.

The rules of protovalidate come as a compiled descriptor inside its package, not as a .proto file; this tool takes the
descriptor from there, so that nothing of theirs is copied here and both always fit the installed version.

Usage: python tools/protos.py stubs | lint | check | release
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
VALIDATE = "buf/validate/validate.proto"
RELEASED = PROTOS / "released.binpb"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def write_validate_descriptor(path: Path) -> None:
    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, timestamp_pb2, field_mask_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    path.write_bytes(files.SerializeToString())


def compile_protos(*options: str, also: tuple[str, ...] = ()) -> None:
    own = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        validate = Path(folder) / "validate.binpb"
        write_validate_descriptor(validate)
        packages = Path(sysconfig.get_paths()["purelib"])
        includes = (f"-I{PROTOS}", f"-I{packages}", f"-I{packages / 'grpc_tools' / '_proto'}")
        if protoc.main(["protoc", f"--descriptor_set_in={validate}", *includes, *options, *own, *also]) != 0:
            raise SystemExit("protoc failed")


def write_stubs(out: Path) -> None:
    compile_protos(
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        also=(VALIDATE,),
    )
    # A file without a service has no use for the empty gRPC stub that the plugin writes all the same.
    for stub in out.rglob("*_pb2_grpc.py"):
        if "Stub" not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)
    for folder in {path.parent for path in out.rglob("*_pb2.py")}:
        (folder / "py.typed").touch()


def write_image(path: Path) -> None:
    compile_protos(f"--descriptor_set_out={path}", "--include_imports", "--include_source_info")


def buf(command: str, *options: str) -> int:
    """Runs `buf` on an image of the contracts: their imports come from packages, which buf alone would not find."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.binpb"
        write_image(image)
        config = str(ROOT / "buf.yaml")
        return subprocess.run(["buf", command, str(image), "--config", config, *options], check=False).returncode


def generated_files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for pattern in GENERATED for path in folder.rglob(pattern)}


def check_drift() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        write_stubs(fresh)
        names = generated_files(fresh) | generated_files(PROTOS)
        _, differing, absent = filecmp.cmpfiles(fresh, PROTOS, [str(name) for name in names], shallow=False)
    for name in sorted(differing + absent):
        print(f"protos/{name} does not match its .proto: run `make protos`", file=sys.stderr)
    return 1 if differing or absent else 0


def main() -> int:
    match sys.argv[1:]:
        case ["stubs"]:
            for name in generated_files(PROTOS):
                (PROTOS / name).unlink()
            write_stubs(PROTOS)
            return 0
        case ["lint"]:
            formatted = subprocess.run(["buf", "format", "--diff", "--exit-code", str(PROTOS)], check=False).returncode
            return formatted or buf("lint")
        case ["check"]:
            return check_drift() or buf("breaking", "--against", str(RELEASED))
        case ["release"]:
            compile_protos(f"--descriptor_set_out={RELEASED}", "--include_imports")
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    shutil.which("protoc-gen-mypy") or sys.exit("protoc-gen-mypy is not on PATH: activate the virtual environment")
    sys.exit(main())
