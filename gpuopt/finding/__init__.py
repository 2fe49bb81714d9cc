"""Floor 6: what `gpuopt find_batch_size` asks, predicts, measures and answers.

Modules are imported one by one: a prediction needs no torch.
"""

__all__: list[str] = []
