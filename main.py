"""`python main.py -c config.ini` trains; `python main.py --help` says what else there is."""

import sys

from baby_mamba.cli import main

sys.exit(main())
