"""Compose, run, record: python run.py solver=plms steps=50 dataset=digits."""

from pndm.runs.command import main

if __name__ == "__main__":
    main()
