"""How a step gets a surrogate's gradient, in each library."""
