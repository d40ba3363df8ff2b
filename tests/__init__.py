"""The tests; a package of its own name, because a library that they use brings one called so too."""
