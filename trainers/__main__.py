"""`python -m trainers`: see `trainers.command`."""

import sys

from trainers.command import main

if __name__ == "__main__":
    sys.exit(main())
