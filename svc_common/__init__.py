import os

# gRPC's core writes its own lines to stderr at INFO ("got goaway") unless it is told otherwise before it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
