"""The Open Inference Protocol (KServe v2) with Triton's extensions. REST and gRPC share all but the framing."""
