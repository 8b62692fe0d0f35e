"""``python -m pong`` is the command ``pong``."""

import sys

from pong.cli import main

sys.exit(main())
