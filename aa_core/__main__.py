"""python -m aa_core is `aa`."""

from aa_core.commands.entry import main

if __name__ == "__main__":
    main()
