"""The options of `tta=` as policies, composed as commands do: the user's files win."""

from hydra import compose
from omegaconf import OmegaConf

from gpuopt.schema import CONF_DIR
from gpuopt.tta import TestTimeAugmentation

__all__ = ["compose_policy", "shipped_policies"]


def compose_policy(name: str) -> TestTimeAugmentation:
    """Compose an option of `tta=` from the folders that the running command reads.

    Raises:
        MissingConfigException: When there is no such option; other errors of Hydra.
        InputError: When its views cannot be made.
    """
    node = compose("predict", overrides=[f"tta={name}"]).tta
    content = OmegaConf.to_container(node, resolve=True)
    assert isinstance(content, dict)  # the schema's node is a mapping
    policy = TestTimeAugmentation(**{str(key): value for key, value in content.items()})
    policy.check()
    return policy


def shipped_policies() -> list[TestTimeAugmentation]:
    """Compose the options that gpuopt brings, fewest views first."""
    names = sorted(path.stem for path in (CONF_DIR / "tta").glob("*.yaml"))
    return sorted(map(compose_policy, names), key=lambda policy: len(policy.views))
