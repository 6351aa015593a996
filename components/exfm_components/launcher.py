"""All processes of one node that train a foundation model together: torchrun for exfm_components.rank.

`python -m exfm_components.launcher ARGUMENTS` takes torchrun's arguments, and ends with the exit code of the process
that failed first: torchrun itself ends with 1, however its processes fail. By this code the runtime `exfm-torchrec`
decides whether a job starts again: for a lost process it does, for an error that exfm reports it does not.
"""

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Run torchrun; return 0, the first failed process's exit code, or 128 plus the signal that ended it."""
    try:
        run.main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        # The last line of a failed pod, which its status keeps. torchrun has a process's exception in a dictionary.
        reason = f": {failure.message['message']}" if isinstance(failure.message, dict) else ""
        told = f"rank {rank} ended with exit code {code}, as the first on this node{reason}"
        print(told.splitlines()[0], file=sys.stderr, flush=True)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
