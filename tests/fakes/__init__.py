"""The fakes of the tests, in one place; CONTRIBUTING.md lists them."""
