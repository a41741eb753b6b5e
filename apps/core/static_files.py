"""Static files as whole responses. WhiteNoise decides which file, with which headers and from which range."""

from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise for ASGI: its own responses read the file step by step on the event loop's behalf, which Django
    warns about. Ours are small (the largest is a font of the admin), so they are read at once in the request's thread.
    """

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        """The file, or what its conditional or range request calls for."""
        found = static_file.get_response(request.method, request.META)
        body = b""
        if found.file is not None:
            with found.file:
                body = found.file.read()
        response = HttpResponse(body, status=int(found.status))
        del response["content-type"]  # WhiteNoise's list has its own
        for name, value in found.headers:
            response[name] = value
        if body:  # WhiteNoise's length is that of the start: the file may have been replaced since
            response["content-length"] = str(len(body))
        return response
