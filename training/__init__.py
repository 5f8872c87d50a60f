"""The scripts that make, measure and illustrate the shipped demo checkpoint."""
