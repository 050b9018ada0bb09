"""Programs that use Adjourn as its users do. README.md says how to run them."""
