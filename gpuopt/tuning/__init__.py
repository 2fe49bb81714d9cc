"""Floor 6: what `gpuopt tune` measures and chooses; its searches are pure over their probes.

Modules are imported one by one: a search needs no torch.
"""

__all__: list[str] = []
