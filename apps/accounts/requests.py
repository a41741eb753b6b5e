"""The type of a request behind `login_required`, for type checkers: its user is one of ours."""

from django.http import HttpRequest

from apps.accounts.models import User


class UserRequest(HttpRequest):
    """A request whose person is logged in. Never instantiated."""

    user: User
