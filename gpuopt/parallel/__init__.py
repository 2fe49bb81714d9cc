"""Several processes for one piece of work: ranks that train together."""

__all__: list[str] = []
