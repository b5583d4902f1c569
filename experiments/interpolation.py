"""Slerp between the noises of two seeds: python -m experiments.interpolation, see `trajectory`."""

from experiments.trajectories import main

if __name__ == "__main__":
    main()
