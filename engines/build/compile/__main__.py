"""`python -m engines.build.compile`."""

from engines.build.compile.cli import main

if __name__ == "__main__":
    main()
