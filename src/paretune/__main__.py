"""`python -m paretune` and `accelerate launch -m paretune` are the command line."""

from paretune.cli.main import run

if __name__ == "__main__":
    run()
