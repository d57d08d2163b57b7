"""`python -m domicile` is the command `domicile`."""

from domicile.cli.main import main

if __name__ == "__main__":
    main()
