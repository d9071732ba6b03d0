"""What to compute: a typed, frozen configuration, without torch.

Public names: Config, load_config, config_names, dump_config.
"""
