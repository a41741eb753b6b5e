"""The alphabet of byte-level BPE (GPT-2): one printable character for each of the 256 bytes."""


def _build() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + position): byte for position, byte in enumerate(others)})
    return table


CHARACTER_BYTES: dict[str, int] = _build()


def byte_level_bytes(string: str) -> bytes:
    """The bytes a byte-level BPE token stands for; a string with a foreign character stands for itself."""
    try:
        return bytes([CHARACTER_BYTES[character] for character in string])
    except KeyError:
        return string.encode()
