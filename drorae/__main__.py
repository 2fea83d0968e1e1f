"""`python -m drorae`: the `drorae` command."""

import sys

from drorae.commands.main import main

sys.exit(main())
