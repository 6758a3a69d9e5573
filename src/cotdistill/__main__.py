"""`python -m cotdistill` is the command."""

from cotdistill.cli import main

if __name__ == "__main__":
    main()
