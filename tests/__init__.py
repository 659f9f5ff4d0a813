"""The tests; a package, so that none of the same name that another distribution installs comes before it."""
