"""The config file of who gives none: every field has its default. For commands that need no more than some of its fields."""

from humpback import config


def get_config() -> config.Config:
    """The defaults."""
    return config.Config()
