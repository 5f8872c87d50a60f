"""Exit with 0 where the torch that was installed is the build that needs what cuda.txt locks."""

import sys
from importlib.metadata import requires

sys.exit(not any(line.startswith(("cuda-", "nvidia-")) for line in requires("torch") or ()))
