"""`python -m fkjax.select`, the same as `fkjax select`."""

import sys

from fkjax.commands.select import main

if __name__ == "__main__":
    sys.exit(main())
