"""`python -m fkjax.run`, the same as `fkjax run`."""

import sys

from fkjax.commands.run import main

if __name__ == "__main__":
    sys.exit(main())
