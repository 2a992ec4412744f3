"""What openme withstands and costs, beside what it is compared with in the same run: `make bench`.

Whole processes are measured from outside, in network namespaces of their own; docs/performance.md says how and shows
the figures. `rows` are the table's rows. `studies` are measurements for a single decision, which are run by hand.
"""

import sys
from pathlib import Path

# The hosts and the server that the tests have.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
