"""Limits, prices, and, where no Redis keeps them, the counters that limits are held against."""

from decimal import Decimal

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, URLValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

NANO = 1_000_000_000  # money is counted in billionths: whole numbers, also of the price of one token


class Period(models.TextChoices):
    """How long a budget is to last, in the installation's time zone."""

    DAY = "day", _("day")
    MONTH = "month", _("month")


class Quota(models.Model):
    """Limits on the requests that a key, a person, a team or a model takes part in. All fields that are set apply."""

    api_key = models.ForeignKey(
        "accounts.APIKey",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="quotas",
        verbose_name=_("API key"),
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="quotas",
        verbose_name=_("user"),
    )
    team = models.ForeignKey(
        "accounts.Team", on_delete=models.CASCADE, null=True, blank=True, related_name="quotas", verbose_name=_("team")
    )
    model = models.ForeignKey(
        "registry.HostedModel",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="quotas",
        verbose_name=_("model"),
        help_text=_("Only requests for this model count. Empty: those for any."),
    )
    each_user = models.BooleanField(
        _("for each person"),
        default=False,
        help_text=_("Every person has these limits alone, instead of all together."),
    )
    requests_per_minute = models.PositiveIntegerField(_("requests a minute"), null=True, blank=True)
    tokens_per_minute = models.PositiveBigIntegerField(_("tokens a minute"), null=True, blank=True)
    max_concurrent = models.PositiveIntegerField(_("requests at once"), null=True, blank=True)
    budget_tokens = models.PositiveBigIntegerField(_("budget in tokens"), null=True, blank=True)
    budget_money = models.DecimalField(
        _("budget in money"),
        max_digits=12,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text=_("At the prices of the models."),
    )
    budget_period = models.CharField(_("budget for a"), max_length=5, choices=Period.choices, default=Period.MONTH)
    warn_email = models.EmailField(
        _("warn by e-mail"), blank=True, help_text=_("Once in each period, when 80 % of a budget is used.")
    )
    warn_url = models.CharField(
        _("warn by webhook"),
        max_length=500,
        blank=True,
        validators=[URLValidator(schemes=["http", "https"])],
        help_text=_("The same as a POST of JSON."),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        ordering = ["pk"]
        verbose_name = _("quota")
        verbose_name_plural = _("quotas")

    def __str__(self) -> str:
        who = self.api_key or self.user or self.team
        names = [str(who)] if who is not None else []
        return " · ".join([*names, *([str(self.model)] if self.model is not None else [])]) or str(_("everybody"))

    def clean(self) -> None:
        """Raises ValidationError for limits of two owners, or none."""
        if sum(owner is not None for owner in (self.api_key_id, self.user_id, self.team_id)) > 1:
            raise ValidationError(_("A quota belongs to one key, one person or one team."))
        if self.each_user and (self.api_key_id or self.user_id):
            raise ValidationError({"each_user": _("Keys and persons stand for one person already.")})
        limits = (self.requests_per_minute, self.tokens_per_minute, self.max_concurrent, self.budget_tokens)
        if all(limit is None for limit in (*limits, self.budget_money)):
            raise ValidationError(_("Set at least one limit."))


class Price(models.Model):
    """What the tokens of a model cost, for budgets in money. A model without one costs nothing."""

    model = models.OneToOneField(
        "registry.HostedModel", on_delete=models.CASCADE, related_name="price", verbose_name=_("model")
    )
    prompt = models.DecimalField(
        _("a million prompt tokens"), max_digits=10, decimal_places=3, validators=[MinValueValidator(Decimal(0))]
    )
    cached = models.DecimalField(
        _("a million of them from the cache"),
        max_digits=10,
        decimal_places=3,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text=_("Empty: as the others."),
    )
    completion = models.DecimalField(
        _("a million tokens of answers"), max_digits=10, decimal_places=3, validators=[MinValueValidator(Decimal(0))]
    )

    class Meta:
        verbose_name = _("price")
        verbose_name_plural = _("prices")

    def __str__(self) -> str:
        return f"{self.prompt} / {self.completion}"


class QuotaCounter(models.Model):
    """What is in use of one quota, or of one person's share in it. `state` is a `Counter` as JSON."""

    name = models.CharField(max_length=80, primary_key=True)
    state = models.TextField()

    def __str__(self) -> str:
        return self.name


class QuotaHold(models.Model):
    """What one open request holds. It goes when the request is settled; its id is that of the usage row."""

    id = models.CharField(max_length=64, primary_key=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    state = models.TextField()

    def __str__(self) -> str:
        return self.id


def find_quotas(*, key_id: int | None, user_id: int, team_id: int) -> "models.QuerySet[Quota]":
    """Those that count requests of this key, person and team, whatever the model."""
    return Quota.objects.filter(
        Q(api_key=key_id, api_key__isnull=False)
        | Q(user=user_id)
        | Q(team=team_id)
        | Q(api_key=None, user=None, team=None)
    )
