"""`python -m groupnorm`: the command line, as torchrun starts it."""

from groupnorm.cli import main

if __name__ == "__main__":
    main()
