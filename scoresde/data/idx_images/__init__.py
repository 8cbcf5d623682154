"""Fashion-MNIST and its kin as a TFDS data set: the builder stands in a package of its own, as TFDS wants it."""
