"""`python -m pipeline` and the console script `pipeline`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from pipeline.cli import app

    app()


if __name__ == "__main__":
    main()
