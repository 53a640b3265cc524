"""Commands of ``ccd`` that have modules of their own; imports of the library are inside them."""
