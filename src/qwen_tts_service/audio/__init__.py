"""From float samples to the bytes of an audio file. It knows neither voices nor HTTP."""
