"""`python -m yantai` is `yantai`."""

import sys

from yantai.cli import main

sys.exit(main())
