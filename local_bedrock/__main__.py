"""`python -m local_bedrock`: see `local_bedrock.cli`."""

import sys

from local_bedrock.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
