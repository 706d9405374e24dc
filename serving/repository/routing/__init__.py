"""Which version answers a request, which loses that right, and models that sleep until a request wakes them."""
