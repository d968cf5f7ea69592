"""How many of something, in words."""


def counted(n: int, thing: str, things: str = "") -> str:
    """`1 model`, `2 models`, `12,000 models`.

    Args:
        thing: one of them.
        things: several, where an s at the end does not make them.
    """
    return f"{n:,} {thing if n == 1 else things or f'{thing}s'}"
