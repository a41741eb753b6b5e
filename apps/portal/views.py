"""One's own API keys: list, create, revoke. How a key is made and stored is in `apps.accounts.keys`."""

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from apps.accounts.keys import NewKey, create_key, revoke_key
from apps.accounts.models import APIKey
from apps.accounts.requests import UserRequest
from apps.portal.forms import KeyForm
from apps.registry.access import list_models_of_teams


@require_http_methods(["GET", "POST"])
@login_required
@never_cache
def show_keys(request: UserRequest) -> HttpResponse:
    """The person's keys. A POST makes one and answers with its secret, the only time that it is shown."""
    new_key: NewKey | None = None
    form = KeyForm(request.POST or None, user=request.user)
    if form.is_valid():
        chosen = form.cleaned_data
        new_key = create_key(
            team=chosen["team"], user=request.user, name=chosen["name"], expires_at=chosen["expires_at"]
        )
        form = KeyForm(user=request.user)
    context = {
        "form": form,
        "keys": APIKey.objects.filter(user=request.user).select_related("team"),
        "has_teams": request.user.teams.exists(),
        "has_several_teams": request.user.teams.count() > 1,
        "new_key": new_key,
        "base_url": settings.PUBLIC_BASE_URL or request.build_absolute_uri("/").rstrip("/"),
        "model": _pick_model(request),
    }
    return render(request, "portal/keys.html", context, status=400 if form.errors else 200)


@require_POST
@login_required
def revoke(request: UserRequest, key_id: int) -> HttpResponse:
    """Ends one of the person's own keys. Another's is a 404."""
    try:
        key = APIKey.objects.get(pk=key_id, user=request.user)
    except APIKey.DoesNotExist:
        raise Http404 from None
    revoke_key(key)
    return redirect("keys")


def _pick_model(request: UserRequest) -> str:
    """A model for the examples: one that the person may use."""
    team_ids = list(request.user.teams.values_list("pk", flat=True))
    return list_models_of_teams(team_ids).order_by("name").values_list("name", flat=True).first() or "MODEL"
