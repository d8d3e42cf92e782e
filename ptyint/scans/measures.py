"""What the arrays of a scan say of it: counts, step, probe, overlap."""

import numpy as np

from ptyint.scans.scan import Scan, pattern_slices


def measure(scan: Scan) -> dict[str, float]:
    """What a scan does not say of itself, from its arrays; patterns are read by slices.

    Returns
    -------
    dict of str to float
        ``mean_counts`` per pattern and ``bad_pixels``, which it leaves out; ``step_px``, the median over the positions
        of the mean distance to the four nearest others; ``probe_diameter_px``, of the disk as large as the area where
        the probe's modulus is at least half its maximum; ``overlap_ratio``, ``1 - step / probe diameter``, at most 0
        where neighbouring beams do not touch.
    """
    from scipy.spatial import cKDTree

    positions = scan.probe_positions_px
    distances, _ = cKDTree(positions).query(positions, k=min(5, scan.n))
    modulus = np.sqrt((np.abs(scan.probe) ** 2).sum(axis=0))
    lit = np.count_nonzero(modulus >= modulus.max() / 2)
    total = sum(scan.counts(rows).sum(dtype=np.float64) for rows in pattern_slices(scan.diffraction_patterns))
    step_px, diameter_px = float(np.median(distances[:, 1:].mean(axis=1))), float(2 * np.sqrt(lit / np.pi))
    return {
        "mean_counts": float(total / scan.n),
        "bad_pixels": 0 if scan.good_pixels is None else int((~scan.good_pixels).sum()),
        "step_px": step_px,
        "probe_diameter_px": diameter_px,
        "overlap_ratio": 1 - step_px / diameter_px,
    }
