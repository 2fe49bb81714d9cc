"""Arguments that the program gives when it builds an object; in a file a value would be lost."""

__all__ = ["GIVEN"]

GIVEN: dict[str, tuple[str, ...]] = {
    "callbacks.adaptive_batch_size": ("meter",),
    "callbacks.batch_size_finder": (
        "batch_arg_name",
        "find_only",
        "global_batch_size",
        "headroom_ratio",
        "is_ragged",
        "meter",
        "prior",
        "sample_batch",
        "set_batch_size",
        "take",
    ),
    "callbacks.checkpoint": ("folder",),
    "callbacks.engine_export": ("cache_dir",),
    "callbacks.gpu_stats": ("card", "devices", "forward_flops", "precision"),
    "callbacks.oom_recovery": ("meter",),
    "callbacks.tensorrt_export": ("cache_dir",),
    "data": (
        "cache_dir",
        "fold",
        "folds",
        "global_batch_size",
        "image_size",
        "micro_batch_size",
        "num_workers",
        "pin_memory",
        "prefetch_factor",
        "seed",
    ),
    "model": ("global_batch_size", "num_classes", "optimizer", "scheduler", "total_steps"),
}
