"""For ``ptyint sweep --executor parsl:`` in tests/test_sweep_executors.py: a block of the Slurm that runs here."""

import os
import sys
from pathlib import Path

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import SlurmProvider

PROGRAMS = Path(sys.executable).parent

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            address="127.0.0.1",
            max_workers_per_node=2,
            heartbeat_period=2,
            heartbeat_threshold=10,
            provider=SlurmProvider(
                partition="all",
                walltime="00:10:00",
                cores_per_node=1,  # of a machine that may have no more
                init_blocks=1,
                max_blocks=1,
                exclusive=False,
                launcher=SingleNodeLauncher(),
                worker_init=f"export PATH={PROGRAMS}:$PATH PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
            ),
        )
    ],
    run_dir=os.environ.get("PTYINT_TEST_PARSL", "parsl"),
    retries=0,
    strategy_period=1,
)
