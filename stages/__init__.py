"""The pipeline's stages, each a process of its own: ``python -m stages.NAME``, as ``dvc.yaml`` has them."""

import gc
import os
import sys
from types import TracebackType

# A fifth of the time of the imports goes into looking for garbage among modules, which stay; `ccd.runtime.launch.stage`
# looks for it again.
gc.disable()

# Arrow's own allocator keeps tens of MB of what was freed. Read when pyarrow is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends the process: Ctrl-C before a stage has begun, while its modules are imported, needs no traceback."""
    from ccd.errors import came_of_interrupt, end_interrupted

    if came_of_interrupt(error):
        end_interrupted()
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
