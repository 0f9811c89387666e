"""``python -m novanet_apps.host_agent [options]``: the same as ``novanet-host-agent [options]``."""

import sys

from novanet_apps.host_agent.main import main

if __name__ == "__main__":
    sys.exit(main())
