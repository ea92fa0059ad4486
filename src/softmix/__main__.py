"""The command line as `python -m softmix`."""

from .cli import main

if __name__ == "__main__":
    main()
