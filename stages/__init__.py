"""The pipeline's stages, each a process of its own: ``python -m stages.NAME``, as ``dvc.yaml`` has them."""

import os

# Arrow's own allocator keeps tens of MB of what was freed. Read when pyarrow is first imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
