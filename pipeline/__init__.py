"""What both ends agree on: frames, the codec, the wire, transports, bundles, and the models behind them."""
