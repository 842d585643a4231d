"""`python -m histill` is `histill`."""

from histill.cli.main import main

if __name__ == "__main__":
    main()
