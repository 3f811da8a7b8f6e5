"""jobs_svc over gRPC beside Procrastinate and PgQueuer on the same PostgreSQL: `python -m bench.queue --help`."""

import sys

if __name__ == "queue":
    # A script of this folder was started by its path, so that Python took this file for the standard library's: make way for that.
    sys.path = [folder for folder in sys.path if not __file__.startswith(f"{folder}/queue")]
    del sys.modules["queue"]
    import queue  # noqa: F401
else:
    from bench.queues.comparison import main

    if __name__ == "__main__":
        main()
