"""The project as a Django app: so that its checks are registered."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """Registers `checks.py`."""

    name = "project"

    def ready(self) -> None:
        from project import checks  # noqa: F401
