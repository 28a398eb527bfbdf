"""Step caches of diffusers on the S2V network: what they need to be told, and where one cannot be used."""

from dataclasses import replace
from typing import Any

from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.models.cache_utils import CacheMixin

# The patterns that TaylorSeer comes with look for modules called "attn". Here that is the audio's cross-attention: it
# alone would be foretold, which saves nothing and costs the lips. So the audio is heard in every step, and the rest is
# foretold.
FORETOLD = [r"blocks\.\d+\.attn1", r"blocks\.\d+\.attn2", r"blocks\.\d+\.ffn"]


class StepCacheMixin(CacheMixin):
    """`CacheMixin` for a network that hears."""

    def enable_cache(self, config: Any) -> None:
        """Enable a step cache; a `TaylorSeerCacheConfig` that names no modules gets `FORETOLD`.

        Raises:
            ValueError: a cache is enabled already, or the config is of no known kind.
        """
        if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None and not config.use_lite_mode:
            config = replace(config, cache_identifiers=FORETOLD)
        super().enable_cache(config)

    def check_cache(self, ranks: int) -> None:
        """Check that the enabled cache can be used by `ranks` processes that share a sequence.

        Raises:
            ValueError: it cannot.
        """
        if ranks > 1 and isinstance(self._cache_config, FirstBlockCacheConfig):
            raise ValueError(
                "FirstBlockCache decides by the tokens of one rank, and ranks that decide differently wait for each "
                "other for ever. With context parallel use MagCache, which decides by the step."
            )
