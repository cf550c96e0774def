"""The pure core of SqueezeFlow: values in, values out; IO lives in `squeezecore.adapters` alone."""
