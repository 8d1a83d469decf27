"""Many machines: the long passes of other rooms in shares, through Ray Data.

Each pass is listed as it is on one machine and worked on by the same functions, and its
files are the same; see `v2ir.cluster.spread` for what happens when a worker dies. The
passes stand in `annotating`, `translating` and `caching` and are imported from there, so
that a worker loads no more than its own needs.
"""

from v2ir.cluster.machines import Cluster
from v2ir.cluster.spread import Lost, Settings, Work, spread

__all__ = ["Cluster", "Lost", "Settings", "Work", "spread"]
