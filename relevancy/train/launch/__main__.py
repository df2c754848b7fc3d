"""`python -m relevancy.train.launch ...`: `accelerate launch` that ends as its runs do, not with 1 and a traceback.

143 stopped by SIGTERM and saved, 130 by Ctrl-C, 2 wrong input: a scheduler can tell what to start again.
"""

from __future__ import annotations

import os
import sys
from subprocess import CalledProcessError

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_SAVING = "120"  # seconds in which a run that was asked to stop may save, before it is killed


def main() -> int:
    """Launch; returns what the first process that ended on its own returned."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SAVING)
    try:
        launch_command(launch_command_parser().parse_args())
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        return _code(failed.get_first_failure()[1].exitcode)
    except CalledProcessError as failed:
        return _code(failed.returncode)
    return 0


def _code(ended: int) -> int:
    """An exit code as a shell has it: one that is negative says by which signal."""
    return ended if ended >= 0 else 128 - ended


if __name__ == "__main__":
    sys.exit(main())
