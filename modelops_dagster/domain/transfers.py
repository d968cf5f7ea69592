"""How far a transfer of bytes has come, in one line."""


def transfer_line(done_bytes: int, total_bytes: int, moved_bytes: int, seconds: float) -> str:
    """E.g. `3.2 of 14.1 GB (22 %), 118 MB/s, 1:32 left`.

    Args:
        done_bytes, total_bytes: what is there, of what has to be.
        moved_bytes: how much of it came in the last `seconds`, which gives the speed; too little of either gives none.
        seconds: see `moved_bytes`.
    """
    share = 100 * done_bytes / total_bytes if total_bytes else 100.0
    unit, scale = ("GB", 1e9) if total_bytes >= 1e9 else ("MB", 1e6) if total_bytes >= 1e6 else ("bytes", 1)
    digits = 0 if unit == "bytes" else 1
    line = f"{done_bytes / scale:,.{digits}f} of {total_bytes / scale:,.{digits}f} {unit} ({share:.0f} %)"
    if seconds < 0.5 or moved_bytes <= 0:
        return line
    bytes_per_s = moved_bytes / seconds
    line += f", {bytes_per_s / 1e6:,.0f} MB/s" if bytes_per_s >= 1e6 else f", {bytes_per_s / 1e3:,.0f} kB/s"
    left_s = round((total_bytes - done_bytes) / bytes_per_s)
    return f"{line}, {_clock(left_s)} left" if left_s > 0 else line


def _clock(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
