"""The change stream: what happens to a wave's rows at one site, carried to the other while users keep writing."""
