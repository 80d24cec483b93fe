"""`python -m fkjax.label`, the same as `fkjax label`."""

import sys

from fkjax.commands.label import main

if __name__ == "__main__":
    sys.exit(main())
