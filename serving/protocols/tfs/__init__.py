"""TensorFlow Serving's API. REST and gRPC share all but the framing."""
