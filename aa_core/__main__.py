"""python -m aa_core is `aa`."""

from aa_core.cli import main

if __name__ == "__main__":
    main()
