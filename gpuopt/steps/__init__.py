"""Floor 3: a training step taken apart: its samples, gradients, state, logs and memory.

Modules are imported one by one, by the callbacks that build on them.
"""

__all__: list[str] = []
