from ptyint.scans import forward


def resolve_probe_mask_np(N, probe_mask):
    return forward.probe_mask(N)
