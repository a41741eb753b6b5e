"""Where a model is loaded from, as people write it. Asks neither disk nor hub."""

from typing import NamedTuple


class Source(NamedTuple):
    """A hub id or a folder, and one GGUF file below it where that is what is meant."""

    place: str
    gguf_file: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there is a place, and the file's name stays below it."""
        parts = self.gguf_file.split("/") if self.gguf_file else []
        return bool(self.place) and not {"", ".", ".."} & set(parts)


def split_source(text: str) -> Source:
    """`org/name`, `org/name:file.gguf`, `folder`, `folder:file.gguf` or `folder/file.gguf`.

    Another colon belongs to the place.
    """
    if not text.endswith(".gguf"):
        return Source(text)
    place, colon, file = text.rpartition(":")
    if colon:
        return Source(place, file)
    place, slash, file = text.rpartition("/")
    return Source(place or slash or ".", file)
