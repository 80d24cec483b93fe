"""`python -m fkjax.report`, the same as `fkjax report`."""

import sys

from fkjax.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
