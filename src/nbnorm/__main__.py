"""``python -m nbnorm`` is the command ``nbnorm``."""

import sys

from nbnorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
