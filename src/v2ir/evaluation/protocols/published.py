"""Settings of publications whose lists of names are the user's to bring.

The counts are checked, so that a random split cannot pass for the published one by name
alone: on M3FD that alone moved the published FID from 70.29 to 45.89.
"""

from __future__ import annotations

from v2ir.evaluation.protocols.record import Protocol

M3FD = Protocol(
    name="m3fd-diffv2ir",
    source="DiffV2IR, section 5: M3FD, manual split by scene, 3,550 training and 650 test pairs",
    num_images=650,
    num_training=3550,
)

FLIR_ALIGNED = Protocol(
    name="flir-aligned-diffv2ir",
    source="DiffV2IR, section 5: 4,489 pairs of FLIR-aligned without black borders, 80 and 20 %",
    num_images=898,
    num_training=3591,
)

LLVIP = Protocol(
    name="llvip-official",
    source="LLVIP (Jia et al., 2021): official split, 12,025 training and 3,463 test pairs",
    num_images=3463,
    num_training=12025,
)

M3FD_THERA = Protocol(
    name="m3fd-thera",
    source="TherA and Text2Thermal: M3FD, 3,368 training and 831 test pairs at 256x256",
    num_images=831,
    num_training=3368,
    resize=(256, 256),
)

FLIR_THERA = Protocol(
    name="flir-thera",
    source="TherA and Text2Thermal: FLIR, 8,862 training and 1,366 test pairs at 256x256",
    num_images=1366,
    num_training=8862,
    resize=(256, 256),
)
