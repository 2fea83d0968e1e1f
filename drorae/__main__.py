"""`python -m drorae`: the `drorae` command."""

import sys

from drorae.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
