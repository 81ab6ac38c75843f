"""lm-eval's own command, which also knows the models of this package's methods.

lm-eval has no entry points for models of other packages: a model type exists once its module has
been imported or registered. So the commands `lm_eval` and `lm-eval` of an environment with this
package are this module's.
"""

import sys

from terse.config.methods import methods
from terse.errors import TerseError


def register_models() -> None:
    """Register the methods' models with lm-eval, each imported when it is first asked for."""
    import lm_eval.models  # noqa: F401 - the library's own ones come first, none is replaced
    from lm_eval.api.registry import model_registry

    for spec in methods().values():
        for name, target in spec.lm_eval_models.items():
            if name not in model_registry:
                model_registry.register(name, target=target)


def main() -> int:
    """Run lm-eval's command line; an error of this package is one line."""
    from lm_eval.__main__ import cli_evaluate

    register_models()
    try:
        cli_evaluate()
    except TerseError as error:
        print(f"lm_eval: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
