"""What runs, in what order and where: Prefect flows, clusters, the command line."""

import os

# Before Prefect is imported anywhere: nothing phones home, and a slow machine has time to start a server.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)
