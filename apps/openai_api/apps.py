from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OpenaiApiConfig(AppConfig):
    name = "apps.openai_api"
    label = "openai_api"
    verbose_name = _("OpenAI API")
    default_auto_field = "django.db.models.BigAutoField"
