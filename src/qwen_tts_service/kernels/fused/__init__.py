"""Fused kernels: each a custom operation with its plain torch definition and a Triton kernel."""
