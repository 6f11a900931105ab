"""Silhouettes of what stands in a home: kitchen, decor, furniture, books."""

from __future__ import annotations

from engines.catalogs.rendered.geometry import Part, Silhouette, ellipse, mirrored, rounded, smooth

MUG = Silhouette(
    body=(((0.14, 0.2), (0.68, 0.2), *rounded(0.14, 0.3, 0.68, 0.9, 0.1)[9:27]),),
    form="round",
    behind=(Part(ellipse(0.68, 0.52, 0.2, 0.2, start=-95, end=95), "deep", 0.075),),
    cavity=(ellipse(0.41, 0.2, 0.27, 0.055),),
)

BOWL = Silhouette(
    body=(((0.05, 0.36), *ellipse(0.5, 0.36, 0.45, 0.44, start=0, end=180)),),
    form="round",
    behind=(Part(((0.34, 0.74), (0.66, 0.74), (0.64, 0.86), (0.36, 0.86)), "deep"),),
    cavity=(ellipse(0.5, 0.36, 0.45, 0.1),),
)

TEAPOT = Silhouette(
    body=(
        smooth(((0.68, 0.62), (0.8, 0.52), (0.84, 0.38), (0.97, 0.33), (0.93, 0.44), (0.88, 0.62), (0.7, 0.78))),
        ellipse(0.48, 0.6, 0.3, 0.28),
        (*ellipse(0.48, 0.36, 0.17, 0.1, start=180, end=360),),
    ),
    form="round",
    behind=(
        Part(ellipse(0.22, 0.58, 0.15, 0.17, start=75, end=285), "deep", 0.06),
        Part(rounded(0.32, 0.83, 0.64, 0.9, 0.03), "deep"),
    ),
    front=(Part(ellipse(0.48, 0.24, 0.05, 0.045), "dark"),),
)

BOTTLE = Silhouette(
    body=(
        mirrored(
            (
                (0.56, 0.16),
                (0.56, 0.22),
                *smooth(((0.57, 0.25), (0.6, 0.31), (0.655, 0.36), (0.68, 0.42), (0.685, 0.48)), closed=False),
                (0.685, 0.9),
                (0.67, 0.95),
                (0.63, 0.965),
            )
        ),
    ),
    form="round",
    front=(Part(rounded(0.42, 0.04, 0.58, 0.18, 0.025), "dark"), Part(((0.43, 0.155), (0.57, 0.155)), "steel", 0.014)),
)

VASE = Silhouette(
    body=(
        mirrored(
            smooth(
                (
                    (0.62, 0.1),
                    (0.58, 0.19),
                    (0.6, 0.29),
                    (0.71, 0.42),
                    (0.76, 0.57),
                    (0.72, 0.73),
                    (0.63, 0.88),
                    (0.6, 0.95),
                ),
                closed=False,
            )
        ),
    ),
    form="round",
    cavity=(ellipse(0.5, 0.1, 0.12, 0.03),),
)

LAMP = Silhouette(
    body=(
        (
            *ellipse(0.5, 0.09, 0.2, 0.03, start=180, end=360),
            *ellipse(0.5, 0.53, 0.38, 0.05, start=0, end=180),
        ),
    ),
    form="round",
    behind=(
        Part(rounded(0.475, 0.5, 0.525, 0.9, 0.01), "dark"),
        Part(ellipse(0.5, 0.91, 0.2, 0.045), "dark"),
    ),
)

PILLOW = Silhouette(
    body=(
        smooth(
            (
                (0.06, 0.08), (0.28, 0.135), (0.5, 0.15), (0.72, 0.135), (0.94, 0.08), (0.875, 0.28), (0.86, 0.5),
                (0.875, 0.72), (0.94, 0.92), (0.72, 0.865), (0.5, 0.85), (0.28, 0.865), (0.06, 0.92), (0.125, 0.72),
                (0.14, 0.5), (0.125, 0.28),
            )
        ),
    ),
    form="puffed",
    creases=(
        ((0.1, 0.13), (0.2, 0.22)),
        ((0.9, 0.13), (0.8, 0.22)),
        ((0.1, 0.87), (0.2, 0.78)),
        ((0.9, 0.87), (0.8, 0.78)),
    ),
)  # fmt: skip

CHAIR = Silhouette(
    body=(rounded(0.23, 0.04, 0.77, 0.5, 0.09), smooth(((0.2, 0.57), (0.8, 0.57), (0.87, 0.68), (0.13, 0.68)))),
    form="flat",
    behind=(
        Part(((0.32, 0.4), (0.32, 0.6)), "dark", 0.05),
        Part(((0.68, 0.4), (0.68, 0.6)), "dark", 0.05),
        Part(((0.2, 0.66), (0.14, 0.97)), "dark", 0.05),
        Part(((0.8, 0.66), (0.86, 0.97)), "dark", 0.05),
        Part(((0.33, 0.66), (0.31, 0.9)), "dark", 0.045),
        Part(((0.67, 0.66), (0.69, 0.9)), "dark", 0.045),
    ),
)

BOOK = Silhouette(
    body=(((0.15, 0.07), (0.83, 0.05), (0.83, 0.9), (0.15, 0.93)),),
    form="flat",
    behind=(
        Part(((0.2, 0.12), (0.89, 0.1), (0.89, 0.94), (0.2, 0.97)), "light"),
        Part(((0.86, 0.12), (0.86, 0.93)), "steel", 0.008),
    ),
    creases=(((0.23, 0.07), (0.23, 0.92)),),
    front=(
        Part(((0.36, 0.2), (0.72, 0.19), (0.72, 0.33), (0.36, 0.34)), "light"),
        Part(((0.42, 0.245), (0.66, 0.24)), "dark", 0.018),
        Part(((0.46, 0.295), (0.62, 0.29)), "dark", 0.014),
    ),
)

LANTERN = Silhouette(
    body=(
        mirrored(
            smooth(
                ((0.58, 0.14), (0.74, 0.2), (0.87, 0.34), (0.9, 0.5), (0.87, 0.66), (0.74, 0.8), (0.58, 0.86)),
                closed=False,
            )
        ),
    ),
    form="round",
    behind=(
        Part(ellipse(0.5, 0.08, 0.06, 0.06, start=180, end=360), "dark", 0.02),
        Part(((0.5, 0.88), (0.5, 0.98)), "dark", 0.03),
    ),
    creases=(
        smooth(((0.13, 0.36), (0.5, 0.4), (0.87, 0.36)), closed=False),
        smooth(((0.1, 0.5), (0.5, 0.55), (0.9, 0.5)), closed=False),
        smooth(((0.13, 0.66), (0.5, 0.71), (0.87, 0.66)), closed=False),
    ),
    front=(Part(rounded(0.4, 0.09, 0.6, 0.16, 0.02), "dark"), Part(rounded(0.42, 0.84, 0.58, 0.9, 0.02), "dark")),
)
