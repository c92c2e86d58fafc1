"""python -m umer1.cli: for launchers such as torchrun."""

import sys

from umer1.cli import main

if __name__ == "__main__":
    sys.exit(main())
