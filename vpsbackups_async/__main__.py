"""`python -m vpsbackups_async` is the command line `vpsbackups`."""

import sys

from vpsbackups_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
