"""ExecuTorch's portable operators alone: .pte files without delegates."""

from __future__ import annotations

from functools import partial

from groupnorm.export.runtimes import executorch

versions = executorch.versions
write = partial(executorch.write, portable=True)
load = executorch.load
describe = executorch.describe
