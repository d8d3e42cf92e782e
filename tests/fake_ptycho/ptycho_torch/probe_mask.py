from ptyint import physics


def resolve_probe_mask_np(N, probe_mask):
    return physics.probe_mask(N)
