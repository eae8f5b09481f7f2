"""The front with the fake worker; its one argument is the configuration as JSON."""

from __future__ import annotations

import json
import sys

from broker.service import run
from common.config import Config

if __name__ == "__main__":
    config = Config.model_validate(json.loads(sys.argv[1]))
    sys.exit(
        run(
            config,
            lambda: config,
            worker_command=[sys.executable, "-m", "tests.cluster.fake_worker"],
        )
    )
