"""Has mypyc compile the protocol analyzers, for half the time of extraction; where it cannot, they run as they are."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
BUILDS = {"bdist_wheel", "build", "build_ext", "editable_wheel"}


def compiled() -> list[Extension]:
    """The extension modules, each of which may fail to build: then the sources are run (`mypyc_build`).

    None where CMDANA_COMPILE is 0: a wheel for every machine, and half the speed of extraction.
    """
    if os.environ.get("CMDANA_COMPILE") == "0":
        return []
    sys.path.insert(0, str(ROOT))
    from feature_extractors.compiled import mypyc_build

    for stale in ROOT.glob("feature_extractors/compiled/analyzers_*__mypyc.*"):
        stale.unlink()
    try:
        from mypyc.build import mypycify

        options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
        extensions = mypycify(
            [*options, *(str(p.relative_to(ROOT)) for p in mypyc_build.sources())],
            opt_level="3",
            group_name=mypyc_build.library(),
        )
    except (ImportError, SystemExit) as why:
        print(f"the protocol analyzers are not compiled: {why}", file=sys.stderr)
        return []
    for extension in extensions:
        extension.optional = True
    return extensions


setup(ext_modules=compiled() if BUILDS & set(sys.argv) else [])
