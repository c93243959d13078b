"""The back end for Qualcomm's HTP, the NPU of Snapdragons."""
