"""`python -m alchemjax` is the command `alchemjax`."""

from alchemjax.cli import main

if __name__ == "__main__":
    main()
