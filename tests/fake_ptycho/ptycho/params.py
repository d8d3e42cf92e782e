cfg = {"N": 64, "gridsize": 1, "use_xla_translate": True, "probe_scale": 4.0}


def get(key):
    return cfg[key]


def get_padded_size():
    return cfg["N"] + 14
