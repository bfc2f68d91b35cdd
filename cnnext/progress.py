"""The progress bar: on a terminal only, on stderr, gone when it is done."""

from __future__ import annotations

from typing import Any


def progress_bar(total: int | None, title: str, unit: str, show: bool = True) -> Any:
    """A tqdm bar; hidden where stderr is no terminal.

    Args:
        total: how many units there are; None if that is not known.
        title: what is shown before the bar.
        unit: what is counted; bytes ("B") are shown as kB and MB.
        show: False hides it anyway.
    """
    # Not at the top: `import cnnext` stays light.
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    hide = None if show else True
    return tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", leave=False, disable=hide)
