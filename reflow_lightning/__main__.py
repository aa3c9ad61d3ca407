"""``python -m reflow_lightning``: the same as the console script."""

from reflow_lightning.experiments.app import main

if __name__ == "__main__":
    main()
