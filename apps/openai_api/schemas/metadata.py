"""Up to 16 texts that a client hangs on an object of the API."""

from typing import Annotated

from msgspec import Meta

MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], MetadataValue], Meta(max_length=16)]
