"""Search for good settings with Optuna: `gpuopt train -m` whose next job follows from the others.

`gpuopt sweep 'model.learning_rate=tag(log, interval(1e-4, 1e-2))' micro_batch_size=16,32
hydra.sweeper.n_trials=20`; `gpuopt sweep resume=FOLDER` goes on.
"""

import sys

from gpuopt import train

__all__ = ["main"]

_SWEEPER = "hydra/sweeper=optuna"


def main() -> None:
    """Run `gpuopt sweep`."""
    words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
    # A sweep that goes on has its own settings, the sweeper among them.
    places = [word for word in words if word.startswith("resume=")]
    is_named = bool(places) and places[0].lower() not in ("resume=true", "resume=false")
    sys.argv[1:] = ["-m", *words] if is_named else ["-m", _SWEEPER, *words]
    train.main()


if __name__ == "__main__":
    main()
