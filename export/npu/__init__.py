"""The static program of an NPU: what every vendor's back end shares, and a table of what they round otherwise."""
