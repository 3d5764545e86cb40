"""``python -m commops``: the ``commops`` command."""

from commops.cli import main

if __name__ == "__main__":
    main()
