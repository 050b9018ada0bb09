"""Runners: what executes the turns of hosted sessions, one file each. The contract is `adjourn.runner`."""
