"""`python3 -m karapace`: serves the registry of the tests as KARAPACE_HOST and KARAPACE_PORT say."""

from __future__ import annotations

import os
import signal

from tests.support.registry_stub import registry_stub

with registry_stub(os.environ["KARAPACE_HOST"], int(os.environ["KARAPACE_PORT"])):
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
