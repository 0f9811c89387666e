"""``python -m novanet_apps [options]``: the same as ``ryu-manager [options] novanet_apps.all``."""

import sys

from novanet_apps.compat import ryu_manager

if __name__ == "__main__":
    sys.exit(ryu_manager([*sys.argv[1:], "novanet_apps.all"]))
