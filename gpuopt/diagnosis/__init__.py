"""Floor 6: what `gpuopt diagnose` finds out, one kind of trouble per file."""

__all__: list[str] = []
