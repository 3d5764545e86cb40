"""What is said of connections that came from nobody of the job."""

from __future__ import annotations

__all__ = ["tell_of_strangers"]


def tell_of_strangers(who: str, count: int, last: str = "") -> None:
    """Write one line to the log ``commops``, if there were any.

    Parameters
    ----------
    who : str
        Who refused them: "rank 3".
    count : int
    last : str
        From where the last of them came; empty if that is not known.
    """
    if count:
        import logging

        where = f", the last from {last}" if last else ""
        logging.getLogger("commops").warning(
            "%s refused %d connection%s that did not prove to be of this job%s",
            who,
            count,
            "s" if count > 1 else "",
            where,
        )
