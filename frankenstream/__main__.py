"""`python -m frankenstream`."""

from frankenstream.cli import main

if __name__ == "__main__":
    main()
