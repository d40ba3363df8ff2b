"""Child processes that do not outlive the process that started them, however it ends.

On Linux the kernel kills them (PR_SET_PDEATHSIG); it ties a child to the thread that made it, so start children from
the main thread. Other systems cannot do that.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

# Runs between fork and the program, as a program of its own: code between fork and exec (preexec_fn) may
# deadlock in a process that has threads. The parent may have died before the prctl, hence the look after.
_EXEC: Final = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0):
        sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(parent):
    sys.exit("the parent is gone")
os.umask(0o077)
os.execv(command[0], command)
"""


def tied_to_this_process(command: Sequence[str]) -> list[str]:
    """The command line that runs this one (an absolute path and its arguments) tied to us, private files by default."""
    return [sys.executable, "-I", "-S", "-c", _EXEC, str(os.getpid()), *command]
