"""The link lab's swarm and ways, where they were before `linklab/` was a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.linklab.swarm import LabSwarm
from benchmarks.linklab.ways import Way

__all__ = ["LabSwarm", "Way"]
